/* chart_draw.c - texts, scales, heading and legend of the figures.
 *
 * Owns what every kind of figure needs and the escaping that keeps hostile names from becoming markup: no text reaches
 * a figure but through put_characters(). Refuses nothing; what cannot be drawn is left out.
 */
#include "pipeline/chart_draw.h"

#include <math.h>
#include <string.h>
#include <utf8proc.h>

/* ---- texts ------------------------------------------------------------------------------------------------------ */

/* The next character of a text that has not ended, as it will be shown. */
static utf8proc_int32_t next_character(const char **text) {
    utf8proc_int32_t code;
    utf8proc_ssize_t bytes =
        utf8proc_iterate((const utf8proc_uint8_t *)*text, (utf8proc_ssize_t)strnlen(*text, 4), &code);
    *text += bytes > 0 ? bytes : 1;
    if (bytes <= 0 || code < 0x20 || (code >= 0x7f && code < 0xa0)) return '?';
    if ((code >= 0x202a && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069)) return '?'; /* directions */
    if ((code & 0xfffe) == 0xfffe || (code >= 0xfdd0 && code < 0xfdf0)) return '?';           /* no characters at all */
    return code;
}

static void put_characters(FILE *out, const char *text, const char *end) {
    while (text < end) {
        utf8proc_uint8_t bytes[4];
        utf8proc_int32_t code = next_character(&text);
        switch (code) {
        case '&':
            fputs("&amp;", out);
            break;
        case '<':
            fputs("&lt;", out);
            break;
        case '>':
            fputs("&gt;", out);
            break;
        case '"':
            fputs("&quot;", out);
            break;
        case '\'':
            fputs("&#39;", out);
            break;
        default:
            fwrite(bytes, 1, (size_t)utf8proc_encode_char(code, bytes), out);
        }
    }
}

void flrq_chart_text(FILE *out, const char *text) {
    if (text) put_characters(out, text, text + strlen(text));
}

/* Width of a character at size 1, from the widths of DejaVu Sans, one of the widest in use. */
static double character_width(utf8proc_int32_t code) {
    if (code >= 0x80) return utf8proc_charwidth(code) > 1 ? 1.05 : utf8proc_charwidth(code) == 1 ? 0.68 : 0;
    if (strchr("ijlI.,:;|!'()[] -/", (int)code)) return 0.37;
    if (strchr("mwMW@%", (int)code)) return 0.97;
    return code >= 'A' && code <= 'Z' ? 0.72 : 0.62;
}

/* End of the part of a text that fits into `room`. */
static const char *fitting(const char *text, double size, double room) {
    double width = 0;
    while (*text) {
        const char *next = text;
        width += size * character_width(next_character(&next));
        if (width > room) break;
        text = next;
    }
    return text;
}

double chart_text_width(const char *text, double size) {
    double width = 0;
    while (text && *text) width += size * character_width(next_character(&text));
    return width;
}

/* [text, end), and an ellipsis where that is not all. The element around it then holds all of it as its <title>. */
static void put_part(FILE *out, const char *text, const char *end) {
    if (*end) {
        fputs("<title>", out);
        flrq_chart_text(out, text);
        fputs("</title>", out);
    }
    put_characters(out, text, end);
    if (*end) fputs("\xe2\x80\xa6", out);
}

void chart_put_text(FILE *out, double x, double y, const char *attributes, double size, double room, const char *text) {
    if (!text || !*text) return;
    const char *end = fitting(text, size, room);
    if (*end) end = fitting(text, size, room - size); /* and an ellipsis */
    fprintf(out, "<text x=\"%.2f\" y=\"%.2f\" font-size=\"%g\"%s%s>", x, y, size, *attributes ? " " : "", attributes);
    put_part(out, text, end);
    fputs("</text>\n", out);
}

/* End of the first of the lines into which a text is broken at spaces; *next: where the second begins. */
static const char *line_end(const char *text, double size, double room, const char **next) {
    const char *end = fitting(text, size, room), *space = end;
    if (*end && *end != ' ')
        while (space > text && space[-1] != ' ') space--;
    if (space > text) end = space; /* a word that fills a line alone is cut */
    if (end == text && *end) next_character(&end);
    for (*next = end; **next == ' ';) ++*next;
    while (end > text && end[-1] == ' ') end--;
    return end;
}

/* A text of at most `lines` lines below `y`. Returns its height; `out` NULL: only that. */
static double put_lines(FILE *out, double y, const char *attributes, double size, double room, int lines,
                        const char *text) {
    double height = 0;
    for (int i = 0; text && *text && i < lines; i++) {
        const char *next, *end = line_end(text, size, room, &next);
        height += size * 1.35;
        if (out && i == lines - 1)
            chart_put_text(out, CHART_EDGE, y + height - 0.35 * size, attributes, size, room, text);
        else if (out) {
            fprintf(out, "<text x=\"%d\" y=\"%.2f\" font-size=\"%g\" %s>", CHART_EDGE, y + height - 0.35 * size, size,
                    attributes);
            put_characters(out, text, end);
            fputs("</text>\n", out);
        }
        text = next;
    }
    return height;
}

/* ---- numbers ---------------------------------------------------------------------------------------------------- */

/* "1.50e+07" becomes "1.50e7", "-0.0" becomes "0.0". */
static void tidy_number(char *text) {
    char *e = strchr(text, 'e');
    if (e) {
        char *from = e + 1, *to = e + 1;
        if (*from == '-') from = ++to;
        if (*from == '+') from++;
        while (*from == '0' && from[1]) from++;
        memmove(to, from, strlen(from) + 1);
    }
    if (*text == '-' && !text[1 + strspn(text + 1, "0.")]) memmove(text, text + 1, strlen(text));
}

chart_number chart_value(double value, int digits) {
    chart_number n;
    double size = fabs(value);
    if (size < 1e6 && value == rint(value))
        snprintf(n.text, sizeof n.text, "%.0f", value);
    else if (size >= 1e-4 && size < 1e6 && size >= pow(10, digits))
        snprintf(n.text, sizeof n.text, "%.0f", value);
    else
        snprintf(n.text, sizeof n.text, "%.*g", digits, value);
    tidy_number(n.text);
    return n;
}

/* ---- scales ----------------------------------------------------------------------------------------------------- */

bool chart_drawable(double value, bool log) {
    return isfinite(value) && fabs(value) <= 1e300 && (!log || value > 0);
}

void chart_range_add(chart_range *range, double value) {
    if (!chart_drawable(value, range->log)) return;
    range->low = range->any ? fmin(range->low, value) : value;
    range->high = range->any ? fmax(range->high, value) : value;
    range->whole = range->whole && value == rint(value);
    range->any = true;
}

/* The smallest of 1, 2, 5, 10, ... times a power of ten that is at least `step`. */
static double round_step(double step) {
    double base = pow(10, floor(log10(step))), digit = step / base;
    return base * (digit <= 1 + 1e-9 ? 1 : digit <= 2 + 1e-9 ? 2 : digit <= 5 + 1e-9 ? 5 : 10);
}

/* Ticks at multiples of `step` between low and high. */
static void linear_ticks(chart_scale *s, double low, double high, double step) {
    s->ticks = 0;
    if (!(step >= 1e-300)) return; /* beyond what can be counted in */
    double largest = fmax(fabs(low), fabs(high)), first = ceil(low / step - 1e-6);
    int decimals = (int)fmax(0, -floor(log10(step) + 1e-9));
    for (double i = first; i * step <= high + 1e-6 * step && s->ticks < CHART_TICKS; i++) {
        double value = fabs(i) < 0.5 ? 0 : i * step;
        chart_number *n = &s->text[s->ticks];
        if (value == 0)
            snprintf(n->text, sizeof n->text, "0");
        else if (largest >= 1e6 || largest < 1e-4) /* as many digits as tell neighbours apart */
            snprintf(n->text, sizeof n->text, "%.*e",
                     (int)fmin(fmax(0, floor(log10(fabs(value)) + 1e-9) - floor(log10(step) + 1e-9)), 17), value);
        else
            snprintf(n->text, sizeof n->text, "%.*f", decimals < 17 ? decimals : 17, value);
        tidy_number(n->text);
        s->tick[s->ticks++] = value;
    }
}

/* Ticks at powers of ten, every `stride`-th, with their 2- and 5-fold where `dense`. */
static void decade_ticks(chart_scale *s, double stride, bool dense) {
    static const double folds[] = {1, 2, 5};
    s->ticks = 0;
    for (double d = stride * floor(s->low / stride); d <= s->high; d += stride)
        for (int k = 0; k < (dense ? 3 : 1) && s->ticks < CHART_TICKS; k++) {
            double at = d + log10(folds[k]);
            if (at < s->low - 1e-9 || at > s->high + 1e-9) continue;
            s->tick[s->ticks] = folds[k] * pow(10, d);
            s->text[s->ticks] = chart_value(s->tick[s->ticks], 3);
            s->ticks++;
        }
}

/* Removes ticks that are too near to the one before. */
static void thin_ticks(chart_scale *s, double gap) {
    int kept = 0;
    for (int i = 0; i < s->ticks; i++) {
        if (kept > 0 && fabs(chart_at(s, s->tick[i]) - chart_at(s, s->tick[kept - 1])) < gap) continue;
        s->tick[kept] = s->tick[i];
        s->text[kept++] = s->text[i];
    }
    s->ticks = kept;
}

/* Powers of ten, or their 2- and 5-fold too; where these are less than three, round numbers. */
static void log_ticks(chart_scale *s, double room) {
    double decade = fabs(s->to - s->from) / (s->high - s->low), low = pow(10, s->low), high = pow(10, s->high);
    bool dense = 0.3 * decade >= room;
    double stride = dense ? 1 : ceil(room / decade);
    decade_ticks(s, stride, dense);
    if (s->ticks < 2 && stride > 1) decade_ticks(s, stride - 1, false);
    if (s->ticks < 3 && decade > 0.5 * room) {
        decade_ticks(s, 1, true);
        thin_ticks(s, 0.6 * room);
    }
    if (s->ticks >= 3 || s->high - s->low > 2) return;
    double step = round_step((high - low) * fmin(room * 1.6 / fabs(s->to - s->from), 0.5));
    linear_ticks(s, low, high, step);
    for (int i = 0; i < 3 && s->ticks < 3; i++) linear_ticks(s, low, high, step = round_step(step / 2.5));
    thin_ticks(s, 0.6 * room);
}

/* The ends of a linear scale without a fixed range. */
static void linear_range(chart_scale *s, const chart_range *range, bool snap) {
    double size = fmax(fabs(range->low), fabs(range->high));
    s->low = range->any ? range->low : 0;
    s->high = range->any ? range->high : 1;
    if (range->any && range->high - range->low <= fmax(1e-12 * size, 1e-290)) { /* all the same, but for rounding */
        double air = size < 1e-280 ? 1 : range->whole && size < 1e15 ? fmax(1, size / 2) : size / 2;
        s->low -= air;
        s->high += air;
        if (range->low >= 0 && s->low < 0) s->low = 0;
    }
    if (snap && s->low > 0 && s->low <= 0.35 * s->high) s->low = 0;
    if (snap && s->high < 0 && s->high >= 0.35 * s->low) s->high = 0;
}

static void fixed_range(chart_scale *s, double low, double high) {
    s->low = s->log ? log10(low) : low;
    s->high = s->log ? log10(high) : high;
}

chart_scale chart_scale_make(const chart_range *range, const flrq_chart_axis *axis, bool snap, double from, double to,
                             double room) {
    chart_scale s = {.log = axis->log, .from = from, .to = to};
    double length = fabs(to - from), wanted = fmin(fmax(length / (1.6 * room), 2), 12);
    bool fixed = axis->low < axis->high && chart_drawable(axis->low, s.log) && chart_drawable(axis->high, s.log) &&
                 (!range->any || (range->low >= axis->low && range->high <= axis->high));
    if (fixed)
        fixed_range(&s, axis->low, axis->high);
    else if (s.log && range->any) {
        fixed_range(&s, range->low, range->high);
        double air = s.high - s.low > 1e-9 ? 0.04 * (s.high - s.low) : 0.3;
        s.low = fmax(s.low - air, -323.306); /* what a double can hold */
        s.high = fmin(s.high + air, 301);
    } else if (s.log)
        s.high = 1;
    else
        linear_range(&s, range, snap);
    if (s.log) {
        log_ticks(&s, room);
        return s;
    }
    double step = round_step((s.high - s.low) / wanted);
    if (range->whole && range->any) step = fmax(step, 1);
    if (!fixed && snap) {
        s.low = step * floor(s.low / step + 1e-6);
        s.high = step * ceil(s.high / step - 1e-6);
    } else if (!fixed) {
        double air = 0.03 * (s.high - s.low);
        s.low -= air;
        s.high += air;
    }
    linear_ticks(&s, s.low, s.high, step);
    if (s.ticks < 2 && !(range->whole && step <= 1)) linear_ticks(&s, s.low, s.high, round_step(step / 2.5));
    return s;
}

double chart_at(const chart_scale *s, double value) {
    return s->from + (s->to - s->from) * (((s->log ? log10(value) : value) - s->low) / (s->high - s->low));
}

double chart_tick_width(const chart_scale *s) {
    double width = 0;
    for (int i = 0; i < s->ticks; i++) width = fmax(width, chart_text_width(s->text[i].text, CHART_TICK));
    return width;
}

/* ---- parts of a figure ------------------------------------------------------------------------------------------ */

const char *chart_colour(size_t i) {
    static const char *const palette[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"};
    return palette[i % (sizeof palette / sizeof *palette)];
}

double chart_legend(FILE *out, double left, double right, double y, const char *const *names, size_t count,
                    void (*swatch)(FILE *out, size_t i, double x, double y, const void *user), const void *user) {
    enum { SAMPLE = 22, GAP = 6, APART = 18, ROW = 19 };
    double x = left, top = y, height = 0, all = 0, widest = 0, room = right - left - SAMPLE - GAP;
    for (size_t i = 0; i < count; i++) {
        double name = fmin(chart_text_width(names[i], CHART_FONT), room);
        if (name <= 0) continue;
        all += SAMPLE + GAP + name + APART;
        widest = fmax(widest, SAMPLE + GAP + name + APART);
    }
    /* Several rows: entries stand below each other, unless a long one leaves room for no column beside it. */
    bool columns = all - APART > right - left && 2 * widest - APART <= right - left;
    for (size_t i = 0; i < count; i++) {
        double name = fmin(chart_text_width(names[i], CHART_FONT), room);
        double wide = columns ? widest : SAMPLE + GAP + name + APART;
        if (name <= 0) continue;
        if (x > left && x + wide - APART > right) {
            x = left;
            y += ROW;
        }
        if (out) {
            swatch(out, i, x + SAMPLE / 2.0, y + ROW / 2.0, user);
            chart_put_text(out, x + SAMPLE + GAP, y + ROW / 2.0 + 4, "", CHART_FONT, name, names[i]);
        }
        x += wide;
        height = y + ROW - top;
    }
    return height > 0 ? height + 5 : 0;
}

double chart_heading_height(const char *title, const char *note, double width) {
    double room = width - 2 * CHART_EDGE;
    return 8 + put_lines(NULL, 0, "", CHART_TITLE, room, 2, title) + put_lines(NULL, 0, "", CHART_FONT, room, 3, note) +
           6;
}

void chart_open(FILE *out, const char *title, const char *note, double width, double height) {
    double room = width - 2 * CHART_EDGE, y = 8;
    fprintf(out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" width=\"%.0f\" height=\"%.0f\" "
            "style=\"max-width:100%%;height:auto\" role=\"img\" aria-label=\"",
            width, height, width, height);
    flrq_chart_text(out, title);
    fprintf(out, "\" font-family=\"sans-serif\" fill=\"%s\">\n<rect width=\"%.0f\" height=\"%.0f\" fill=\"#fff\"/>\n",
            CHART_INK, width, height);
    y += put_lines(out, y, "font-weight=\"bold\"", CHART_TITLE, room, 2, title);
    put_lines(out, y, "fill=\"" CHART_FAINT "\"", CHART_FONT, room, 3, note);
}

void chart_close(FILE *out) {
    fputs("</svg>\n", out);
}

void chart_no_data(FILE *out, double x, double y) {
    fprintf(out,
            "<text x=\"%.2f\" y=\"%.2f\" font-size=\"%d\" text-anchor=\"middle\" fill=\"" CHART_FAINT
            "\">no data</text>\n",
            x, y, CHART_TITLE);
}
