/* chart_xy.c - points and lines on two axes.
 *
 * Owns the places of marks, ticks and labels of such a figure. A label stands where it hides no mark and no other
 * label, and off the lines where it can; one that finds no place is left out.
 */
#include "pipeline/chart_draw.h"

#include <math.h>

enum { PLOT_HEIGHT = 300, MARK = 4, LABEL_ROOM = 170, BOXES = 3000, ROOM = 34 }; /* ROOM: of a short label of x */

/* What a label must not hide; `soft` ones (pieces of lines) only where that is possible. */
typedef struct box {
    double left, top, right, bottom;
    bool soft;
} box;

typedef struct plot {
    const flrq_chart *chart;
    double left, top, right, bottom;
    chart_scale x, y;
    size_t boxes;
    box box[BOXES]; /* further marks than these may be hidden by labels */
} plot;

/* ---- marks ------------------------------------------------------------------------------------------------------ */

enum { SHAPES = 8, CROSSES = 5 }; /* shapes from CROSSES on are drawn by their outline */

/* Shapes around (0, 0), about as heavy as each other. */
static const char *const shapes[SHAPES] = {"M-4,0a4,4 0 1 0 8,0a4,4 0 1 0 -8,0z",
                                           "M-3.6,-3.6h7.2v7.2h-7.2z",
                                           "M0,-4.8L4.6,3.4H-4.6z",
                                           "M0,-5L5,0L0,5L-5,0z",
                                           "M0,4.8L4.6,-3.4H-4.6z",
                                           "M-3.5,-3.5L3.5,3.5M-3.5,3.5L3.5,-3.5",
                                           "M-4.6,0H4.6M0,-4.6V4.6",
                                           "M-3.4,0a3.4,3.4 0 1 0 6.8,0a3.4,3.4 0 1 0 -6.8,0z"};

/* Paint of the shape of series i: on the group of its marks. */
static void put_paint(FILE *out, size_t i) {
    if (i % SHAPES < CROSSES)
        fprintf(out, "fill=\"%s\" stroke=\"#fff\" stroke-width=\".8\"", chart_colour(i));
    else
        fprintf(out, "fill=\"none\" stroke=\"%s\" stroke-width=\"1.8\"", chart_colour(i));
}

static bool has_points(const flrq_chart_series *s) {
    return s->points || !s->line;
}

/* Lines that carry marks differ by these; lines alone need the dashes sooner. */
static const char *dash(const flrq_chart_series *s, size_t i) {
    static const char *const dashes[] = {"", " stroke-dasharray=\"7 3\"", " stroke-dasharray=\"2 3\"",
                                         " stroke-dasharray=\"9 3 2 3\""};
    return dashes[(has_points(s) ? i / 7 : i) % 4];
}

static bool drawable(const plot *p, const flrq_chart_series *s, size_t k) {
    return chart_drawable(s->x[k], p->chart->x.log) && chart_drawable(s->y[k], p->chart->y.log);
}

/* Ends of the spread of a point, where it has one. */
static bool spread(const plot *p, const flrq_chart_series *s, size_t k, double *low, double *high) {
    if (!s->low || !s->high || !chart_drawable(s->low[k], p->chart->y.log) ||
        !chart_drawable(s->high[k], p->chart->y.log))
        return false;
    *low = fmin(s->low[k], s->high[k]);
    *high = fmax(s->low[k], s->high[k]);
    return true;
}

static void put_fact(FILE *out, const char *label, double value) {
    fputc('\n', out);
    flrq_chart_text(out, label);
    fprintf(out, "%s%s", label && *label ? ": " : "", chart_value(value, 6).text);
}

/* "name, label", then a line for each axis. */
static void put_title(FILE *out, const plot *p, const flrq_chart_series *s, size_t k) {
    double low, high;
    const char *label = s->labels ? s->labels[k] : NULL;
    fputs("<title>", out);
    flrq_chart_text(out, s->name);
    if (s->name && label) fputs(", ", out);
    flrq_chart_text(out, label);
    put_fact(out, p->chart->x.label, s->x[k]);
    put_fact(out, p->chart->y.label, s->y[k]);
    if (spread(p, s, k, &low, &high)) fprintf(out, " (%s to %s)", chart_value(low, 6).text, chart_value(high, 6).text);
    fputs("</title>", out);
}

static void put_line(FILE *out, const plot *p, size_t i) {
    const flrq_chart_series *s = &p->chart->series[i];
    bool joined = false;
    fprintf(out, "<path fill=\"none\" stroke=\"%s\" stroke-width=\"1.8\" stroke-linejoin=\"round\"%s d=\"",
            chart_colour(i), dash(s, i));
    for (size_t k = 0; k < s->count; k++) {
        if (drawable(p, s, k))
            fprintf(out, "%s%.2f,%.2f", joined ? "L" : "M", chart_at(&p->x, s->x[k]), chart_at(&p->y, s->y[k]));
        joined = drawable(p, s, k);
    }
    fputs("\"/>\n", out);
}

static void put_marks(FILE *out, const plot *p, size_t i) {
    const flrq_chart_series *s = &p->chart->series[i];
    const char *small = s->count > 60 ? " scale(.6)" : "";
    double low, high;
    for (size_t k = 0; k < s->count; k++)
        if (drawable(p, s, k) && spread(p, s, k, &low, &high)) {
            double x = chart_at(&p->x, s->x[k]);
            fprintf(out,
                    "<path fill=\"none\" stroke=\"%s\" stroke-width=\"1.2\" "
                    "d=\"M%.2f,%.2fV%.2fM%.2f,%.2fh6M%.2f,%.2fh6\"/>\n",
                    chart_colour(i), x, chart_at(&p->y, low), chart_at(&p->y, high), x - 3, chart_at(&p->y, low), x - 3,
                    chart_at(&p->y, high));
        }
    fputs("<g class=\"marks\" ", out);
    if (has_points(s))
        put_paint(out, i);
    else
        fputs("fill=\"none\" pointer-events=\"all\"", out); /* nothing to see but the title */
    fputs(">\n", out);
    for (size_t k = 0; k < s->count; k++) {
        if (!drawable(p, s, k)) continue;
        fprintf(out, "<path transform=\"translate(%.2f,%.2f)%s\" d=\"%s\">", chart_at(&p->x, s->x[k]),
                chart_at(&p->y, s->y[k]), small, shapes[has_points(s) ? i % SHAPES : 0]);
        put_title(out, p, s, k);
        fputs("</path>\n", out);
    }
    fputs("</g>\n", out);
}

static void put_swatch(FILE *out, size_t i, double x, double y, const void *user) {
    const flrq_chart_series *s = &((const flrq_chart *)user)->series[i];
    if (s->line)
        fprintf(out, "<path fill=\"none\" stroke=\"%s\" stroke-width=\"1.8\"%s d=\"M%.2f,%.2fh22\"/>", chart_colour(i),
                dash(s, i), x - 11, y);
    if (!has_points(s)) return;
    fprintf(out, "<path transform=\"translate(%.2f,%.2f)\" ", x, y);
    put_paint(out, i);
    fprintf(out, " d=\"%s\"/>", shapes[i % SHAPES]);
}

/* ---- labels ----------------------------------------------------------------------------------------------------- */

static void keep_free(plot *p, double left, double top, double right, double bottom, bool soft) {
    if (p->boxes < BOXES) p->box[p->boxes++] = (box){left, top, right, bottom, soft};
}

/* Pieces of the line from (x, y) to (to_x, to_y). */
static void keep_line_free(plot *p, double x, double y, double to_x, double to_y) {
    int pieces = (int)fmin(fmax(ceil(hypot(to_x - x, to_y - y) / 8), 1), 100);
    for (int i = 0; i <= pieces; i++) {
        double t = (double)i / pieces, at_x = x + t * (to_x - x), at_y = y + t * (to_y - y);
        keep_free(p, at_x - 1.5, at_y - 1.5, at_x + 1.5, at_y + 1.5, true);
    }
}

static void keep_marks_free(plot *p) {
    for (size_t i = 0; i < p->chart->count; i++) {
        const flrq_chart_series *s = &p->chart->series[i];
        for (size_t k = 0; k < s->count; k++) {
            if (!drawable(p, s, k)) continue;
            double x = chart_at(&p->x, s->x[k]), y = chart_at(&p->y, s->y[k]);
            keep_free(p, x - MARK, y - MARK, x + MARK, y + MARK, false);
        }
    }
    for (size_t i = 0; i < p->chart->count; i++) {
        const flrq_chart_series *s = &p->chart->series[i];
        double low, high;
        for (size_t k = 0; k < s->count; k++) {
            if (!drawable(p, s, k) || !spread(p, s, k, &low, &high)) continue;
            double x = chart_at(&p->x, s->x[k]);
            keep_line_free(p, x, chart_at(&p->y, low), x, chart_at(&p->y, high));
        }
        for (size_t k = 1; s->line && k < s->count; k++)
            if (drawable(p, s, k - 1) && drawable(p, s, k))
                keep_line_free(p, chart_at(&p->x, s->x[k - 1]), chart_at(&p->y, s->y[k - 1]), chart_at(&p->x, s->x[k]),
                               chart_at(&p->y, s->y[k]));
    }
}

static bool is_free(const plot *p, const box *b, bool soft_too) {
    if (b->left < p->left || b->right > p->right || b->top < p->top || b->bottom > p->bottom) return false;
    for (size_t i = 0; i < p->boxes; i++) {
        const box *o = &p->box[i];
        if (o->soft && !soft_too) continue;
        if (b->left < o->right && o->left < b->right && b->top < o->bottom && o->top < b->bottom) return false;
    }
    return true;
}

/* A label beside the point (x, y), in the first free place; far ones are tied to the point. */
static void put_label(FILE *out, plot *p, double x, double y, const char *text) {
    static const struct {
        int dx, dy; /* direction from the point: right, above, left, below, then the corners */
    } ways[] = {{1, 0}, {0, -1}, {-1, 0}, {0, 1}, {1, -1}, {1, 1}, {-1, -1}, {-1, 1}};
    static const char *const anchors[] = {"text-anchor=\"end\"", "text-anchor=\"middle\"", ""};
    enum { WAYS = sizeof ways / sizeof *ways };
    double width = fmin(chart_text_width(text, CHART_TICK), LABEL_ROOM), half = CHART_TICK / 2.0 + 1;
    for (int attempt = 0; attempt < 4 * WAYS; attempt++) { /* near and off lines, far and off lines, near, far */
        bool far = attempt / WAYS % 2, soft_too = attempt < 2 * WAYS;
        double away = far ? 22 : MARK + 3;
        int dx = ways[attempt % WAYS].dx, dy = ways[attempt % WAYS].dy;
        double at_x = x + dx * away * (dy ? 0.7 : 1), at_y = y + dy * (away * (dx ? 0.7 : 1) + (dx ? 0 : half));
        box b = {at_x - (dx < 0 ? width : dx == 0 ? width / 2 : 0), at_y - half, 0, at_y + half, false};
        b.right = b.left + width;
        if (!is_free(p, &b, soft_too)) continue;
        keep_free(p, b.left, b.top, b.right, b.bottom, false);
        if (far)
            fprintf(out, "<path stroke=\"" CHART_FRAME "\" stroke-width=\".7\" d=\"M%.2f,%.2fL%.2f,%.2f\"/>\n", x, y,
                    at_x, dx ? at_y : at_y - dy * half);
        chart_put_text(out, at_x, at_y + 4, anchors[dx + 1], CHART_TICK, LABEL_ROOM, text);
        return;
    }
}

static void put_labels(FILE *out, plot *p) {
    keep_marks_free(p);
    fputs("<g class=\"labels\" stroke=\"#fff\" stroke-width=\"3\" stroke-linejoin=\"round\" paint-order=\"stroke\">\n",
          out);
    for (size_t i = 0; i < p->chart->count; i++) {
        const flrq_chart_series *s = &p->chart->series[i];
        for (size_t k = 0; s->labels && k < s->count; k++)
            if (s->labels[k] && *s->labels[k] && drawable(p, s, k))
                put_label(out, p, chart_at(&p->x, s->x[k]), chart_at(&p->y, s->y[k]), s->labels[k]);
    }
    fputs("</g>\n", out);
}

/* ---- axes ------------------------------------------------------------------------------------------------------- */

static void put_axes(FILE *out, const plot *p) {
    char turn[80];
    fprintf(out, "<path class=\"grid\" stroke=\"" CHART_GRID "\" d=\"");
    for (int i = 0; i < p->x.ticks; i++)
        fprintf(out, "M%.2f,%.2fV%.2f", chart_at(&p->x, p->x.tick[i]), p->top, p->bottom);
    for (int i = 0; i < p->y.ticks; i++)
        fprintf(out, "M%.2f,%.2fH%.2f", p->left, chart_at(&p->y, p->y.tick[i]), p->right);
    fprintf(out, "\"/>\n<path fill=\"none\" stroke=\"" CHART_FRAME "\" d=\"M%.2f,%.2fV%.2fH%.2f\"/>\n", p->left, p->top,
            p->bottom, p->right);
    fprintf(out, "<g class=\"x\" font-size=\"%d\" text-anchor=\"middle\">\n", CHART_TICK);
    for (int i = 0; i < p->x.ticks; i++)
        fprintf(out, "<text x=\"%.2f\" y=\"%.2f\">%s</text>\n", chart_at(&p->x, p->x.tick[i]), p->bottom + 15,
                p->x.text[i].text);
    fprintf(out, "</g>\n<g class=\"y\" font-size=\"%d\" text-anchor=\"end\">\n", CHART_TICK);
    for (int i = 0; i < p->y.ticks; i++)
        fprintf(out, "<text x=\"%.2f\" y=\"%.2f\">%s</text>\n", p->left - 6, chart_at(&p->y, p->y.tick[i]) + 4,
                p->y.text[i].text);
    fputs("</g>\n", out);
    chart_put_text(out, (p->left + p->right) / 2, p->bottom + 34, "text-anchor=\"middle\"", CHART_FONT,
                   p->right - p->left, p->chart->x.label);
    double x = CHART_EDGE + 10, y = (p->top + p->bottom) / 2;
    snprintf(turn, sizeof turn, "text-anchor=\"middle\" transform=\"rotate(-90 %.2f %.2f)\"", x, y);
    chart_put_text(out, x, y, turn, CHART_FONT, p->bottom - p->top, p->chart->y.label);
}

/* Ranges of both axes; true when there is a point. */
static bool ranges(const plot *p, chart_range *x, chart_range *y) {
    for (size_t i = 0; i < p->chart->count; i++) {
        const flrq_chart_series *s = &p->chart->series[i];
        for (size_t k = 0; k < s->count; k++) {
            double low, high;
            if (!drawable(p, s, k)) continue;
            chart_range_add(x, s->x[k]);
            chart_range_add(y, s->y[k]);
            if (!spread(p, s, k, &low, &high)) continue;
            chart_range_add(y, low);
            chart_range_add(y, high);
        }
    }
    return x->any;
}

static double put_legend(FILE *out, const flrq_chart *chart, double width, double y) {
    enum { NAMES = 64 }; /* names beyond are left out: no reader tells so many apart */
    const char *names[NAMES];
    size_t count = chart->count < NAMES ? chart->count : NAMES;
    for (size_t i = 0; i < count; i++) names[i] = chart->series[i].name;
    return chart_legend(out, CHART_EDGE, width - CHART_EDGE, y, names, count, put_swatch, chart);
}

void flrq_chart_xy(FILE *out, const flrq_chart *chart) {
    plot p = {.chart = chart};
    chart_range x = {.log = chart->x.log, .whole = true}, y = {.log = chart->y.log, .whole = true};
    double width = chart->width > 0 ? chart->width : CHART_WIDTH;
    double heading = chart_heading_height(chart->title, chart->note, width);
    bool any = ranges(&p, &x, &y);
    p.top = heading + put_legend(NULL, chart, width, heading) + 6;
    p.bottom = p.top + (chart->height > 0 ? chart->height : PLOT_HEIGHT);
    p.y = chart_scale_make(&y, &chart->y, true, p.bottom, p.top, 24);
    p.left = CHART_EDGE + (chart->y.label && *chart->y.label ? 20 : 0) + chart_tick_width(&p.y) + 6;
    p.right = fmax(width - CHART_EDGE - 6, p.left + 20);
    p.x = chart_scale_make(&x, &chart->x, false, p.left, p.right, ROOM);
    double widest = chart_tick_width(&p.x) + 10;
    if (widest > ROOM) p.x = chart_scale_make(&x, &chart->x, false, p.left, p.right, widest);
    chart_open(out, chart->title, chart->note, width, p.bottom + (chart->x.label && *chart->x.label ? 44 : 24));
    put_legend(out, chart, width, heading);
    if (any) {
        put_axes(out, &p);
        for (size_t i = 0; i < chart->count; i++)
            if (chart->series[i].line) put_line(out, &p, i);
        for (size_t i = 0; i < chart->count; i++) put_marks(out, &p, i);
        put_labels(out, &p);
    } else
        chart_no_data(out, (p.left + p.right) / 2, (p.top + p.bottom) / 2);
    chart_close(out);
}
