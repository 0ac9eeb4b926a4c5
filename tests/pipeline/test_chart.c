/* test_chart.c - figures: well-formed whatever they are given, the same twice, marks where their axes say, labels that
 * hide nothing, lengths and shades that follow the values.
 *
 * Figures are read back from their SVG: a small reader holds the rules of XML that they can break, and coordinates are
 * taken from the text, so that what is tested is what a viewer sees.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/chart_draw.h"
#include "text/unicode.h"

enum { MANY = 4096 };

/* ---- drawing ---------------------------------------------------------------------------------------------------- */

typedef void (*draw_fn)(FILE *out, const void *what);

static void draw_xy(FILE *out, const void *what) {
    flrq_chart_xy(out, what);
}

static void draw_map(FILE *out, const void *what) {
    flrq_chart_heat_map(out, what);
}

static void draw_bars(FILE *out, const void *what) {
    flrq_chart_bars(out, what);
}

static void draw_text(FILE *out, const void *what) {
    flrq_chart_text(out, what);
}

/* free(). The stream's own variables are static, lest GCC 12 take what it puts there for the address of a local. */
static char *drawn(draw_fn draw, const void *what) {
    static char *text;
    static size_t bytes;
    FILE *out = open_memstream(&text, &bytes);
    assert_non_null(out);
    draw(out, what);
    assert_int_equal(fclose(out), 0);
    assert_int_equal(strlen(text), bytes);
    return text;
}

/* ---- the rules of XML ------------------------------------------------------------------------------------------- */

/* Length of the entity at `text`, 0 when it is none that both XML and HTML know. */
static size_t entity(const char *text) {
    static const char *const known[] = {"&amp;", "&lt;", "&gt;", "&quot;", "&#39;"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strncmp(text, known[i], strlen(known[i])) == 0) return strlen(known[i]);
    return 0;
}

/* Reads the attributes of a tag up to its '>' or '/'; NULL when they are malformed. */
static const char *attributes_end(const char *p) {
    while (*p == ' ') {
        p++;
        size_t name = strspn(p, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-:");
        if (name == 0 || p[name] != '=' || p[name + 1] != '"') return NULL;
        for (p += name + 2; *p != '"'; p++) {
            if (!*p || *p == '<') return NULL;
            if (*p == '&' && !entity(p)) return NULL;
        }
        p++;
    }
    return p;
}

/* What is wrong with a document of one root element; NULL when nothing is. */
static const char *malformed(const char *text) {
    enum { DEPTH = 16, NAME = 16 };
    char open[DEPTH][NAME];
    int depth = 0, roots = 0;
    if (flrq_utf8_check(text, strlen(text)) != strlen(text)) return "bytes that are not UTF-8";
    for (const char *p = text; *p;) {
        if ((unsigned char)*p < 0x20 && *p != '\n') return "a control character";
        if (*p == '&') {
            if (!entity(p)) return "an unknown entity";
            p += entity(p);
        } else if (*p == '>')
            return "a stray >";
        else if (*p != '<') {
            if (depth == 0 && *p != '\n') return "text outside of the root";
            p++;
        } else {
            int closing = p[1] == '/';
            char name[NAME] = "";
            p += 1 + closing;
            size_t length = strspn(p, "abcdefghijklmnopqrstuvwxyz");
            if (length == 0 || length >= NAME) return "a tag without a name";
            memcpy(name, p, length);
            p = attributes_end(p + length);
            if (!p) return "malformed attributes";
            int empty = *p == '/';
            p += empty;
            if (*p++ != '>') return "a tag that does not end";
            if (closing) {
                if (depth == 0 || strcmp(open[--depth], name) != 0) return "tags that cross";
                continue;
            }
            if (depth == 0 && roots++) return "two roots";
            if (empty) continue;
            if (depth == DEPTH) return "too deep";
            memcpy(open[depth++], name, NAME);
        }
    }
    return depth ? "an element that does not end" : roots == 1 ? NULL : "no root";
}

/* The value of an attribute in the tag at `tag`; NAN when it has none. */
static double attribute(const char *tag, const char *name) {
    char key[32];
    snprintf(key, sizeof key, " %s=\"", name);
    const char *end = strchr(tag, '>'), *at = strstr(tag, key);
    return at && end && at < end ? strtod(at + strlen(key), NULL) : NAN;
}

/* Occurrences of `part`. */
static size_t occurs(const char *text, const char *part) {
    size_t count = 0;
    for (; (text = strstr(text, part)); text += strlen(part)) count++;
    return count;
}

/* What every figure must be: well-formed, alone, finite, of a sensible size, and the same when drawn again. Names in
 * these tests hold none of the words looked for. Returns the figure; free(). */
static char *checked(draw_fn draw, const void *what) {
    static const char *const never[] = {"nan",     "inf",    "NaN",  "url(",   "href",
                                        "<script", "<style", " id=", "<image", "@"};
    char *svg = drawn(draw, what), *again = drawn(draw, what);
    const char *wrong = malformed(svg);
    if (wrong) fail_msg("%s in:\n%.3000s", wrong, svg);
    assert_string_equal(svg, again);
    free(again);
    assert_int_equal(strncmp(svg, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 ", 53), 0);
    assert_int_equal(occurs(svg, "http"), 1);
    for (size_t i = 0; i < sizeof never / sizeof *never; i++)
        if (strstr(svg, never[i])) fail_msg("%s in:\n%.3000s", never[i], svg);
    assert_true(attribute(svg, "width") >= 100 && attribute(svg, "height") >= 60);
    return svg;
}

/* ---- reading a figure back -------------------------------------------------------------------------------------- */

/* Positions and numbers of the ticks of an axis. */
typedef struct ticks {
    int count;
    double at[CHART_TICKS], value[CHART_TICKS];
    char text[CHART_TICKS][40];
} ticks;

/* From <g class="x"> or "y"; the labels of y stand 4 below their lines. */
static ticks ticks_of(const char *svg, const char *axis) {
    ticks t = {0};
    char group[24];
    snprintf(group, sizeof group, "<g class=\"%s\"", axis);
    const char *p = strstr(svg, group), *end = p ? strstr(p, "</g>") : NULL;
    assert_non_null(end);
    while ((p = strstr(p, "<text ")) && p < end) {
        assert_true(t.count < CHART_TICKS);
        t.at[t.count] = attribute(p, axis) - (*axis == 'y' ? 4 : 0);
        p = strchr(p, '>') + 1;
        char *stop;
        t.value[t.count] = strtod(p, &stop);
        assert_true(*stop == '<' && stop - p < 40);
        memcpy(t.text[t.count], p, (size_t)(stop - p));
        t.count++;
    }
    return t;
}

/* Places of the marks, in the order of the file. */
static size_t marks_of(const char *svg, double *x, double *y) {
    size_t count = 0;
    for (const char *p = svg; (p = strstr(p, "<path transform=\"translate(")); count++) {
        assert_true(count < MANY);
        char *end;
        p += strlen("<path transform=\"translate(");
        x[count] = strtod(p, &end);
        assert_int_equal(*end, ',');
        y[count] = strtod(end + 1, &end);
        assert_int_equal(*end, ')');
    }
    return count;
}

/* Where a value lies by two ticks of its axis. Printed coordinates are within 0.005 of the true ones, so that over a
 * stretch of f times the distance of the ticks this is within 0.005 (1 + 2 f); with the mark's own rounding and f <= 2
 * here: 0.03. */
enum { PLACE_HUNDREDTHS = 3 };
static double by_ticks(const ticks *t, int is_log, double value) {
    assert_true(t->count >= 2);
    int last = t->count - 1;
    double low = t->value[0], high = t->value[last];
    double part = is_log ? log(value / low) / log(high / low) : (value - low) / (high - low);
    assert_true(fabs(part) <= 2);
    return t->at[0] + part * (t->at[last] - t->at[0]);
}

static void assert_place(double is, double should, const char *what, double value) {
    if (!(fabs(is - should) <= 0.01 * PLACE_HUNDREDTHS))
        fail_msg("%s of %g at %g, should be %g", what, value, is, should);
}

/* ---- texts ------------------------------------------------------------------------------------------------------ */

static void test_text(void **state) {
    static const char *const cases[][2] = {
        {"plain_text 1.5", "plain_text 1.5"},
        {"<b a=\"1\" c='2'>&amp;</b>", "&lt;b a=&quot;1&quot; c=&#39;2&#39;&gt;&amp;amp;&lt;/b&gt;"},
        {"a\tb\nc\x7f\x01", "a?b?c??"},
        {"gr\xc3\xb6\xc3\x9f"
         "e \xe4\xb8\xad \xf0\x9f\x98\x80",
         "gr\xc3\xb6\xc3\x9f"
         "e \xe4\xb8\xad \xf0\x9f\x98\x80"},
        {"\xc3", "?"},                /* ends within a character */
        {"\xc3<", "?&lt;"},           /* which does not swallow the next */
        {"\xff\xc0\xafx", "???x"},    /* overlong */
        {"\xed\xa0\x80", "???"},      /* surrogate */
        {"\xf4\x90\x80\x80", "????"}, /* beyond U+10FFFF */
        {"\xc2\x85", "?"},            /* C1 control */
        {"\xe2\x80\xae"
         "abc",
         "?abc"},                          /* right to left from here */
        {"\xef\xbf\xbe\xef\xbf\xbf", "??"} /* U+FFFE, U+FFFF: not in XML */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *text = drawn(draw_text, cases[i][0]);
        assert_string_equal(text, cases[i][1]);
        free(text);
    }
    char *none = drawn(draw_text, NULL);
    assert_string_equal(none, "");
    free(none);
}

/* The reader itself sees what is wrong. */
static void test_reader(void **state) {
    static const char *const bad[] = {"",
                                      "<a>",
                                      "<a></b>",
                                      "<a/><a/>",
                                      "<a>&nbsp;</a>",
                                      "<a b/>",
                                      "<a b='1'/>",
                                      "<a b=\"<\"/>",
                                      "<a>\xff</a>",
                                      "<a>\x02</a>",
                                      "x<a/>",
                                      "<a><b></a></b>",
                                      "<a b=\"&x\"/>",
                                      "<a b=\"1\"c=\"2\"/>"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (!malformed(bad[i])) fail_msg("%s", bad[i]);
    assert_null(malformed("<a b=\"&lt;\">x<b/>&amp;</a>\n"));
}

static const char hostile[] = "</title></text></svg><b onclick=\"x\">&'\xff\x01\xe2\x80\xae";

static void test_hostile_names(void **state) {
    char long_name[3000];
    memset(long_name, 'w', sizeof long_name);
    memcpy(long_name, hostile, sizeof hostile - 1);
    long_name[sizeof long_name - 1] = '\0';
    static const double x[] = {1, 2}, y[] = {1, 3}, values[] = {1, 2, 3, 4};
    const char *const names[] = {hostile, long_name}, *const labels[] = {long_name, hostile};
    for (int log = 0; log < 2; log++) {
        const flrq_chart_series series[] = {{.name = hostile, .count = 2, .x = x, .y = y, .labels = labels},
                                            {.name = long_name, .count = 2, .x = x, .y = y, .line = true}};
        const flrq_chart chart = {long_name, hostile, {long_name, log, 0, 0}, {hostile, log, 0, 0}, series, 2, 0, 0};
        free(checked(draw_xy, &chart));
    }
    const flrq_heat_map map = {hostile, long_name, hostile, long_name, 2, 2, names, values};
    const flrq_bars bars = {long_name, hostile, hostile, 2, 2, names, names, values};
    free(checked(draw_map, &map));
    char *svg = checked(draw_bars, &bars);
    /* Cut where it is shown, whole in a title. */
    char whole[3200] = "?????";
    memset(whole, 'w', 2900);
    whole[2900] = '\0';
    assert_non_null(strstr(svg, "\xe2\x80\xa6</text>"));
    assert_non_null(strstr(svg, whole));
    assert_true(attribute(svg, "width") == CHART_WIDTH);
    free(svg);
}

/* ---- axes ------------------------------------------------------------------------------------------------------- */

/* Marks of figures over many ranges lie where the ticks of both axes say. */
static void test_places(void **state) {
    static const struct {
        double x0, x1, y0, y1;
        bool x_log, y_log;
    } ranges[] = {{0, 31, 0.08, 0.24, 0, 0},        {2.1, 4.6, 5.1, 9.9, 0, 0},       {-3, 3, -1e-3, 2e-3, 0, 0},
                  {1, 1e4, 1e-3, 1e2, 1, 1},        {10, 35, 3.1, 4.9, 1, 1},         {1, 2, 1e-30, 1e25, 0, 1},
                  {7e9, 7e10, 1e6, 1e6 + 50, 0, 0}, {12345678, 12345682, 0, 1, 0, 0}, {1e-9, 4e-9, 1e-5, 9e-5, 0, 1},
                  {-5, -4, -0.1, -0.02, 0, 0},      {0, 1, 1, 1.0000001, 0, 0},       {16, 256, 0, 1, 1, 0},
                  {0.3, 0.7, 99, 101, 1, 1}};
    enum { POINTS = 9 };
    for (size_t r = 0; r < sizeof ranges / sizeof *ranges; r++) {
        double x[POINTS], y[POINTS], at_x[MANY], at_y[MANY];
        for (int k = 0; k < POINTS; k++) {
            double t = k / (POINTS - 1.0), u = fmod(0.37 * k, 1); /* u: some order of its own */
            x[k] = ranges[r].x_log ? ranges[r].x0 * pow(ranges[r].x1 / ranges[r].x0, t)
                                   : ranges[r].x0 + t * (ranges[r].x1 - ranges[r].x0);
            y[k] = ranges[r].y_log ? ranges[r].y0 * pow(ranges[r].y1 / ranges[r].y0, u)
                                   : ranges[r].y0 + u * (ranges[r].y1 - ranges[r].y0);
        }
        const flrq_chart_series series = {.count = POINTS, .x = x, .y = y, .line = r % 2, .points = true};
        const flrq_chart chart = {.title = "places",
                                  .x = {"x", ranges[r].x_log, 0, 0},
                                  .y = {"y", ranges[r].y_log, 0, 0},
                                  .series = &series,
                                  .count = 1};
        char *svg = checked(draw_xy, &chart);
        ticks tx = ticks_of(svg, "x"), ty = ticks_of(svg, "y");
        assert_int_equal(marks_of(svg, at_x, at_y), POINTS);
        assert_int_equal(occurs(svg, "<title>"), POINTS);
        for (int i = 1; i < tx.count; i++) /* labels of x do not touch */
            assert_true(tx.at[i] - tx.at[i - 1] >
                        (chart_text_width(tx.text[i], CHART_TICK) + chart_text_width(tx.text[i - 1], CHART_TICK)) / 2);
        for (int k = 0; k < POINTS; k++) {
            assert_place(at_x[k], by_ticks(&tx, ranges[r].x_log, x[k]), "x", x[k]);
            assert_place(at_y[k], by_ticks(&ty, ranges[r].y_log, y[k]), "y", y[k]);
        }
        free(svg);
    }
}

/* One of 1, 2, 5 times a power of ten. Products of printed numbers err by a few units in the last place. */
static int is_round(double step) {
    double digit = step / pow(10, floor(log10(step) + 1e-6));
    return fabs(digit - 1) < 1e-6 || fabs(digit - 2) < 1e-6 || fabs(digit - 5) < 1e-6;
}

/* Over random ranges: enough ticks and not too many, at round steps on linear axes, all different as texts, apart (a
 * step that gives one tick alone is made smaller, to 0.4 of it at the least), inside the axis. */
static void test_ticks(void **state) {
    uint64_t seed = 1;
    for (int trial = 0; trial < 3000; trial++) {
        double random[3];
        for (int i = 0; i < 3; i++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            random[i] = (double)(seed >> 11) / 9007199254740992.0;
        }
        bool log = trial % 2, snap = trial / 2 % 2;
        double size = pow(10, 24 * random[0] - 12), low = size * (log ? 1 : 2 * random[1] - 1);
        double high = log ? low * pow(10, 12 * random[2] * random[2]) : low + size * pow(10, -6 * random[2]);
        chart_range range = {.log = log, .whole = true};
        const flrq_chart_axis axis = {.log = log};
        double room = snap ? 24 : 46, length = trial % 3 ? 560 : 110;
        chart_range_add(&range, low);
        chart_range_add(&range, high);
        chart_scale s = chart_scale_make(&range, &axis, snap, 50, 50 + length, room);
        if (s.ticks < 2 || s.ticks > 24)
            fail_msg("%d ticks from %.17g to %.17g, log %d, length %g", s.ticks, low, high, log, length);
        double before = -INFINITY, step = NAN;
        for (int i = 0; i < s.ticks; i++) {
            double at = chart_at(&s, s.tick[i]), value = strtod(s.text[i].text, NULL);
            /* The label says the value: to a hundredth of what the axis shows of it. */
            if (!(fabs(chart_at(&s, value) - at) <= 0.01 * length))
                fail_msg("tick %g is called %s", s.tick[i], s.text[i].text);
            assert_true(at >= 50 - 1e-3 && at <= 50 + length + 1e-3 && at > before);
            if (i > 0) {
                assert_string_not_equal(s.text[i].text, s.text[i - 1].text);
                if (!log && isnan(step)) step = s.tick[i] - s.tick[i - 1];
                if (!log && !is_round(step)) fail_msg("step %g from %g to %g", step, low, high);
                if (!log && at - before < room * 0.4) fail_msg("ticks %g apart", at - before);
            }
            before = at;
        }
        assert_true(chart_at(&s, low) >= 50 - 1e-3 && chart_at(&s, high) <= 50 + length + 1e-3);
    }
}

static void assert_labels(const char *svg, const char *axis, const char *expected) {
    ticks t = ticks_of(svg, axis);
    char all[400] = "";
    for (int i = 0; i < t.count; i++)
        snprintf(all + strlen(all), sizeof all - strlen(all), "%s%s", i ? " " : "", t.text[i]);
    assert_string_equal(all, expected);
}

static void test_labels_of_ticks(void **state) {
    static const struct {
        double low, high;
        bool log;
        const char *y;
    } cases[] = {{0.01, 0.24, false, "0 0.05 0.10 0.15 0.20 0.25"},
                 {5.1, 9.9, false, "5 6 7 8 9 10"},
                 {1e-3, 1e3, true, "0.001 0.01 0.1 1 10 100 1000"},
                 {1, 100, true, "1 2 5 10 20 50 100"},
                 {1e-9, 1e9, true, "1e-8 1e-6 0.0001 0.01 1 100 10000 1e6 1e8"},
                 {3, 4, true, "3.0 3.2 3.4 3.6 3.8 4.0"},
                 {-2, 12, false, "-2 0 2 4 6 8 10 12"},
                 {2e6, 8e6, false, "0 2e6 4e6 6e6 8e6"},
                 {12345678, 12345682, false, "1.2345678e7 1.2345679e7 1.2345680e7 1.2345681e7 1.2345682e7"},
                 {1e-6, 3.5e-6, false, "0 5e-7 1.0e-6 1.5e-6 2.0e-6 2.5e-6 3.0e-6 3.5e-6"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const double x[] = {0, 3}, y[] = {cases[i].low, cases[i].high};
        const flrq_chart_series series = {.count = 2, .x = x, .y = y};
        const flrq_chart chart = {.y = {.log = cases[i].log}, .series = &series, .count = 1};
        char *svg = checked(draw_xy, &chart);
        assert_labels(svg, "y", cases[i].y);
        assert_labels(svg, "x", "0 1 2 3"); /* whole numbers have no ticks between */
        free(svg);
    }
}

/* A range that the caller gives holds, unless a value lies outside. */
static void test_fixed_range(void **state) {
    static const double x[] = {0, 1}, y[] = {0.2, 0.3};
    const flrq_chart_series series = {.count = 2, .x = x, .y = y};
    flrq_chart chart = {.y = {.low = 0, .high = 0.9}, .series = &series, .count = 1, .width = 320, .height = 120};
    char *svg = checked(draw_xy, &chart);
    double at_x[MANY], at_y[MANY];
    ticks t = ticks_of(svg, "y");
    assert_int_equal(marks_of(svg, at_x, at_y), 2);
    assert_place(at_y[0] - at_y[1], 120 * 0.1 / 0.9, "distance", 0.1);
    assert_place(at_y[0], by_ticks(&t, 0, 0.2), "y", 0.2);
    assert_true(attribute(svg, "width") == 320);
    free(svg);
    chart.y.high = 0.25;
    svg = checked(draw_xy, &chart);
    assert_labels(svg, "y", "0.20 0.25 0.30");
    free(svg);
}

/* ---- what cannot be drawn --------------------------------------------------------------------------------------- */

static void assert_marks(const flrq_chart *chart, size_t expected) {
    char *svg = checked(draw_xy, chart);
    double x[MANY], y[MANY], width = attribute(svg, "width"), height = attribute(svg, "height");
    size_t count = marks_of(svg, x, y);
    assert_int_equal(count, expected);
    assert_int_equal(occurs(svg, "no data"), expected == 0);
    for (size_t i = 0; i < count; i++) assert_true(x[i] > 0 && x[i] < width && y[i] > 0 && y[i] < height);
    free(svg);
}

static void test_left_out(void **state) {
    static const double x[] = {1, 2, NAN, 3, 4, 5, 6, INFINITY, 0}, y[] = {1, NAN, 1, -2, 0, INFINITY, 10, 1, 2};
    flrq_chart_series series = {.count = 9, .x = x, .y = y, .line = true, .points = true};
    flrq_chart chart = {.series = &series, .count = 1};
    assert_marks(&chart, 5);
    chart.y.log = true;
    assert_marks(&chart, 3);
    chart.x.log = true;
    assert_marks(&chart, 2);
    series.count = 0;
    assert_marks(&chart, 0);
    chart.count = 0;
    assert_marks(&chart, 0);
    static const double bad[] = {NAN, -1, 0};
    series = (flrq_chart_series){.count = 3, .x = bad, .y = bad};
    chart.count = 1;
    assert_marks(&chart, 0);
    /* A line is not drawn over a gap: one piece begins at the first point, one after each value left out. */
    static const double at[] = {0, 1, 2, 3, 4}, gap[] = {1, 2, NAN, 3, 4};
    series = (flrq_chart_series){.count = 5, .x = at, .y = gap, .line = true};
    chart = (flrq_chart){.series = &series, .count = 1};
    char *svg = checked(draw_xy, &chart);
    const char *line = strstr(svg, "stroke-linejoin=\"round\" d=\"");
    assert_non_null(line);
    line += strlen("stroke-linejoin=\"round\" d=\"");
    char path[200];
    snprintf(path, sizeof path, "%.*s", (int)strcspn(line, "\""), line);
    assert_int_equal(occurs(path, "M"), 2);
    assert_int_equal(occurs(path, "L"), 2);
    free(svg);
}

/* Single values, equal values, and the ends of what a double can hold. */
static void test_extremes(void **state) {
    static const double sets[][4] = {{5, 5, 5, 5},
                                     {0, 0, 0, 0},
                                     {-7, -7, -7, -7},
                                     {1e300, 1e300, 1e300, 1e300},
                                     {-1e300, 1e300, 0, 1},
                                     {5e-324, 5e-324, 5e-324, 5e-324},
                                     {5e-324, 1e300, 1, 2},
                                     {1, 1 + DBL_EPSILON, 1, 1},
                                     {9007199254740992, 9007199254740994, 9007199254740996, 9007199254740998},
                                     {1e-300, 2e-300, 3e-300, 4e-300},
                                     {DBL_MAX, 1, 2, 3}};
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++)
        for (int mode = 0; mode < 8; mode++) {
            bool log = mode & 1, swap = mode & 2;
            static const double other[] = {1, 2, 3, 4};
            flrq_chart_series series = {.count = mode & 4 ? 1 : 4,
                                        .x = swap ? sets[i] : other,
                                        .y = swap ? other : sets[i],
                                        .line = true,
                                        .points = true};
            const flrq_chart chart = {
                .x = {"x", log && swap, 0, 0}, .y = {"y", log && !swap, 0, 0}, .series = &series, .count = 1};
            size_t expected = 0;
            for (size_t k = 0; k < series.count; k++) expected += chart_drawable(sets[i][k], log);
            assert_marks(&chart, expected);
        }
}

/* ---- labels and legend ------------------------------------------------------------------------------------------ */

typedef struct rectangle {
    double left, top, right, bottom;
} rectangle;

static int overlap(rectangle a, rectangle b) {
    return a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
}

/* Rectangles of the labels, whose capitals are about 8 high above the base line. */
static size_t labels_of(const char *svg, rectangle *boxes) {
    size_t count = 0;
    char text[100];
    const char *p = strstr(svg, "<g class=\"labels\""), *end = p ? strstr(p, "</g>") : NULL;
    assert_non_null(end);
    for (; (p = strstr(p, "<text ")) && p < end; p++) {
        const char *body = strchr(p, '>') + 1, *anchor = strstr(p, "text-anchor=\"");
        snprintf(text, sizeof text, "%.*s", (int)strcspn(body, "<"), body);
        double x = attribute(p, "x"), y = attribute(p, "y"), width = chart_text_width(text, CHART_TICK);
        if (anchor && anchor < body) x -= strncmp(anchor + 13, "end", 3) == 0 ? width : width / 2;
        boxes[count++] = (rectangle){x, y - 8, x + width, y};
    }
    return count;
}

/* Labels of crowded points hide neither each other nor a mark; the points of a loose row all have theirs. */
static void test_labels(void **state) {
    static double x[60], y[60], at_x[MANY], at_y[MANY];
    static const char *labels[60];
    rectangle boxes[60];
    for (int crowd = 0; crowd < 3; crowd++) {
        size_t count = crowd ? 60 : 8;
        for (size_t i = 0; i < count; i++) {
            x[i] = crowd == 2 ? 1 : (double)i * 0.618 - floor((double)i * 0.618);
            y[i] = crowd == 2 ? 1 : crowd ? (double)(i * i % 17) : (double)i;
            labels[i] = i % 3 ? "method" : "longer method";
        }
        const flrq_chart_series series = {.count = count, .x = x, .y = y, .labels = labels, .points = true};
        const flrq_chart chart = {.series = &series, .count = 1};
        char *svg = checked(draw_xy, &chart);
        size_t shown = labels_of(svg, boxes), marks = marks_of(svg, at_x, at_y);
        assert_int_equal(marks, count);
        assert_int_equal(occurs(svg, "<title>"), count); /* the label is in the title, shown or not */
        assert_true(crowd ? shown >= (crowd == 2 ? 1 : 20) && shown < count : shown == count);
        for (size_t i = 0; i < shown; i++) {
            for (size_t k = 0; k < i; k++) assert_false(overlap(boxes[i], boxes[k]));
            for (size_t k = 0; k < marks; k++)
                assert_false(overlap(boxes[i], (rectangle){at_x[k] - 4, at_y[k] - 4, at_x[k] + 4, at_y[k] + 4}));
            assert_true(boxes[i].left >= 0 && boxes[i].right <= attribute(svg, "width"));
        }
        free(svg);
    }
}

/* The legend stands above the area of the points, however many names there are, and series differ in shape or colour.
 */
static void test_legend(void **state) {
    enum { SERIES = 20 };
    static double x[SERIES][2], y[SERIES][2], at_x[MANY], at_y[MANY];
    static char names[SERIES][32];
    flrq_chart_series series[SERIES];
    for (int i = 0; i < SERIES; i++) {
        snprintf(names[i], sizeof names[i], "series number %d", i);
        x[i][1] = 1;
        y[i][0] = y[i][1] = i;
        series[i] =
            (flrq_chart_series){.name = names[i], .count = 2, .x = x[i], .y = y[i], .line = true, .points = true};
    }
    const flrq_chart chart = {.title = "many", .series = series, .count = SERIES};
    char *svg = checked(draw_xy, &chart), looks[SERIES][400];
    size_t marks = marks_of(svg, at_x, at_y);
    assert_int_equal(marks, 3 * SERIES); /* one in the legend, two points */
    for (int i = 0; i < SERIES; i++) {
        char in_legend[64];
        snprintf(in_legend, sizeof in_legend, ">series number %d<", i);
        const char *entry = strstr(svg, in_legend);
        assert_non_null(entry);
        while (strncmp(entry, "<text ", 6) != 0) entry--;
        for (size_t k = SERIES; k < marks; k++) assert_true(attribute(entry, "y") < at_y[k]);
    }
    const char *group = svg;
    for (int i = 0; i < SERIES; i++, group++) {
        group = strstr(group, "<g class=\"marks\"");
        assert_non_null(group);
        const char *shape = strstr(group, " d=\"");
        snprintf(looks[i], sizeof looks[i], "%.*s %.*s", (int)strcspn(group, ">"), group, (int)strcspn(shape + 4, "\""),
                 shape + 4);
        for (int k = 0; k < i; k++) assert_string_not_equal(looks[i], looks[k]);
    }
    free(svg);
}

/* ---- maps and bars ---------------------------------------------------------------------------------------------- */

/* Sum of the colour's parts of the cell at `tag`; -1: no fill. */
static int brightness(const char *tag) {
    unsigned r, g, b;
    const char *fill = strstr(tag, " fill=\"");
    if (!fill || sscanf(fill, " fill=\"#%2x%2x%2x\"", &r, &g, &b) != 3) return -1;
    return (int)(r + g + b);
}

static void test_heat_map(void **state) {
    enum { ROWS = 7, COLS = 80 };
    static const char *const names[ROWS] = {"q", "k", "v", "o", "gate", "up", "down"};
    static double values[ROWS * COLS];
    for (int i = 0; i < ROWS * COLS; i++) values[i] = i * 37 % 129;
    values[5] = NAN;
    const flrq_heat_map map = {"ranks", NULL, "layer", "rank", ROWS, COLS, names, values};
    char *svg = checked(draw_map, &map);
    const char *cell = strstr(svg, "<g class=\"cells\"");
    int bright[129];
    for (int v = 0; v < 129; v++) bright[v] = -1;
    for (int i = 0; i < ROWS * COLS; i++) {
        char title[64];
        cell = strstr(cell + 1, "<rect ");
        assert_non_null(cell);
        if (isnan(values[i]))
            snprintf(title, sizeof title, "<title>%s\nlayer %d\nrank: none</title>", names[i / COLS], i % COLS);
        else
            snprintf(title, sizeof title, "<title>%s\nlayer %d\nrank: %.0f</title>", names[i / COLS], i % COLS,
                     values[i]);
        const char *body = strchr(cell, '>') + 1;
        if (strncmp(body, title, strlen(title)) != 0) fail_msg("%.80s, not %s", body, title);
        assert_int_equal(brightness(cell) < 0, isnan(values[i]));
        if (!isnan(values[i])) bright[(int)values[i]] = brightness(cell);
        double x = attribute(cell, "x"), y = attribute(cell, "y");
        assert_true(x >= 0 && x + attribute(cell, "width") <= CHART_WIDTH + 0.01);
        assert_true(y >= 0 && y + attribute(cell, "height") <= attribute(svg, "height"));
    }
    for (int v = 1, last = bright[0]; v < 129; v++) {
        if (bright[v] < 0) continue;
        assert_true(bright[v] < last); /* darker for larger */
        last = bright[v];
    }
    free(svg);
}

static void test_heat_map_edges(void **state) {
    static const char *const names[] = {"one"};
    static const double none[] = {NAN, INFINITY}, equal[] = {3, 3}, wild[] = {-1e300, 1e300};
    flrq_heat_map map = {"t", "n", "layer", "rank", 1, 2, names, none};
    char *svg = checked(draw_map, &map);
    assert_int_equal(occurs(svg, "no data"), 1);
    free(svg);
    map.rows = 0;
    svg = checked(draw_map, &map);
    assert_int_equal(occurs(svg, "no data"), 1);
    free(svg);
    map.rows = 1;
    map.values = equal;
    svg = checked(draw_map, &map);
    assert_int_equal(occurs(svg, "rank: 3<"), 2);
    free(svg);
    map.values = wild;
    free(checked(draw_map, &map));
    /* More rows than have room for their names. */
    enum { ROWS = 300 };
    static const char *many[ROWS];
    static double values[ROWS];
    for (int i = 0; i < ROWS; i++) {
        many[i] = "name";
        values[i] = i;
    }
    map = (flrq_heat_map){"t", NULL, "layer", "rank", ROWS, 1, many, values};
    svg = checked(draw_map, &map);
    assert_int_equal(occurs(svg, "<rect "), ROWS + 1); /* and the paper */
    assert_true(occurs(svg, ">name<") < ROWS / 2);
    free(svg);
}

/* Widths are proportional to the values, parts follow each other, totals are as said. */
static void test_bars(void **state) {
    static const char *const names[] = {"first", "second", "third"}, *const parts[] = {"codes", "scales"};
    static const double values[] = {3, 0.125, 2, 1, 0, 4};
    const flrq_bars bars = {"bits", "note", "bits per weight", 3, 2, names, parts, values};
    char *svg = checked(draw_bars, &bars);
    const char *bar = strstr(svg, "<g class=\"x\"");
    ticks t = ticks_of(svg, "x");
    double unit = (t.at[t.count - 1] - t.at[0]) / (t.value[t.count - 1] - t.value[0]), from = NAN;
    for (int i = 0; i < 6; i++) {
        if (values[i] == 0) continue; /* not drawn */
        bar = strstr(bar + 1, "<rect ");
        assert_non_null(bar);
        if (i % 2 == 0 || values[i - 1] == 0) from = t.at[0];
        assert_place(attribute(bar, "x"), from, "bar", values[i]);
        assert_place(attribute(bar, "width"), values[i] * unit, "width", values[i]);
        from = attribute(bar, "x") + attribute(bar, "width");
    }
    static const char *const totals[] = {">3.125<", ">3.000<", ">4.000<"};
    for (int i = 0; i < 3; i++) assert_int_equal(occurs(svg, totals[i]), 1);
    assert_non_null(strstr(svg, "<title>first\ncodes: 3 bits per weight</title>"));
    free(svg);
}

static void test_bars_edges(void **state) {
    static const char *const names[] = {"a", "b"};
    static const double zero[] = {0, 0}, bad[] = {NAN, -3}, large[] = {1e300, 1e300}, mixed[] = {INFINITY, 2};
    static const struct {
        const double *values;
        size_t drawn;
    } cases[] = {{zero, 0}, {bad, 0}, {large, 2}, {mixed, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (size_t parts = 1; parts <= 2; parts++) {
            const flrq_bars bars = {"t", NULL, "seconds", 2 / parts, parts, names, names, cases[i].values};
            char *svg = checked(draw_bars, &bars);
            size_t swatches = parts == 2 ? 2 : 0; /* with the paper: every other rectangle */
            assert_int_equal(occurs(svg, "<rect "), 1 + swatches + cases[i].drawn);
            free(svg);
        }
    const flrq_bars none = {"t", NULL, "seconds", 0, 1, NULL, NULL, NULL};
    char *svg = checked(draw_bars, &none);
    assert_int_equal(occurs(svg, "no data"), 1);
    free(svg);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text),           cmocka_unit_test(test_reader),   cmocka_unit_test(test_hostile_names),
        cmocka_unit_test(test_places),         cmocka_unit_test(test_ticks),    cmocka_unit_test(test_labels_of_ticks),
        cmocka_unit_test(test_fixed_range),    cmocka_unit_test(test_left_out), cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_labels),         cmocka_unit_test(test_legend),   cmocka_unit_test(test_heat_map),
        cmocka_unit_test(test_heat_map_edges), cmocka_unit_test(test_bars),     cmocka_unit_test(test_bars_edges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
