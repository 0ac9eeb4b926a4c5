/* chart_blocks.c - figures made of rectangles: heat maps and stacked bars.
 *
 * Owns their geometry and the colour scale of the maps. There are no gradients or patterns: these need names, and names
 * clash when several figures stand in one page.
 */
#include "pipeline/chart_draw.h"

#include <math.h>

enum { NAME_ROOM = 230 };

static double names_width(const char *const *names, size_t count, double size) {
    double width = 0;
    for (size_t i = 0; names && i < count; i++) width = fmax(width, chart_text_width(names[i], size));
    return fmin(width, NAME_ROOM);
}

/* ---- heat map --------------------------------------------------------------------------------------------------- */

/* One hue from near white to dark blue, about even in lightness; t in [0, 1]. */
static void put_shade(FILE *out, double t) {
    static const int stops[][3] = {{238, 244, 250}, {176, 206, 230}, {98, 158, 203}, {33, 102, 160}, {10, 45, 92}};
    enum { LAST = sizeof stops / sizeof *stops - 1 };
    int k = (int)fmin(t * LAST, LAST - 1);
    double part = t * LAST - k;
    fputc('#', out);
    for (int c = 0; c < 3; c++) fprintf(out, "%02x", (int)lround(stops[k][c] + part * (stops[k + 1][c] - stops[k][c])));
}

/* Cells are at most CELL wide, so that a model of few layers does not fill the page with them. */
typedef struct heat_layout {
    double left, top, wide, high; /* of a cell: wide, high */
    double low, high_value;
    bool any, numbers; /* numbers: the cells are large enough for their values */
} heat_layout;

static double shade_of(const heat_layout *h, double value) {
    if (h->high_value > h->low) return (value - h->low) / (h->high_value - h->low);
    return value == 0 ? 0 : 0.5; /* all the same */
}

static heat_layout heat_layout_make(const flrq_heat_map *map) {
    enum { CELL = 46 };
    heat_layout h = {0};
    double widest = 0;
    for (size_t i = 0; i < map->rows * map->cols; i++) {
        double v = map->values[i];
        if (!chart_drawable(v, false)) continue;
        h.low = h.any ? fmin(h.low, v) : v;
        h.high_value = h.any ? fmax(h.high_value, v) : v;
        h.any = true;
        widest = fmax(widest, chart_text_width(chart_value(v, 3).text, 10));
    }
    if (h.low > 0 && h.low <= 0.35 * h.high_value) h.low = 0;
    h.high = map->rows <= 24 ? 22 : map->rows <= 80 ? 12 : 5;
    h.left = CHART_EDGE + names_width(map->row_names, map->rows, CHART_TICK) + 8;
    h.top = chart_heading_height(map->title, map->note, CHART_WIDTH) + 30;
    h.wide = map->cols ? fmin((CHART_WIDTH - CHART_EDGE - h.left) / (double)map->cols, CELL) : CELL;
    h.numbers = h.high >= 16 && widest + 8 <= h.wide;
    return h;
}

/* "rank  0 [light to dark] 31" */
static void put_heat_scale(FILE *out, const flrq_heat_map *map, const heat_layout *h) {
    enum { STEPS = 48, STEP = 3 };
    chart_number low = chart_value(h->low, 4), high = chart_value(h->high_value, 4);
    double x = CHART_EDGE, y = h->top - 26;
    if (map->unit && *map->unit) {
        chart_put_text(out, x, y + 10, "", CHART_FONT, 240, map->unit);
        x += fmin(chart_text_width(map->unit, CHART_FONT), 240) + 10;
    }
    chart_put_text(out, x, y + 10, "", CHART_TICK, 100, low.text);
    x += chart_text_width(low.text, CHART_TICK) + 6;
    for (int i = 0; i < STEPS; i++) {
        int lap = i < STEPS - 1; /* reaches below the next: no seams */
        fprintf(out, "<path d=\"M%.2f,%.2fh%dv12h-%dz\" fill=\"", x + i * STEP, y, STEP + lap, STEP + lap);
        put_shade(out, shade_of(h, h->low + (h->high_value - h->low) * i / (STEPS - 1)));
        fputs("\"/>", out);
    }
    chart_put_text(out, x + STEPS * STEP + 6, y + 10, "", CHART_TICK, 100, high.text);
}

static void put_cell(FILE *out, const flrq_heat_map *map, const heat_layout *h, size_t row, size_t col) {
    double v = map->values[row * map->cols + col], x = h->left + (double)col * h->wide,
           y = h->top + (double)row * h->high;
    bool full = chart_drawable(v, false);
    fprintf(out, "<rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\" fill=\"", x, y, h->wide, h->high);
    if (full)
        put_shade(out, shade_of(h, v));
    else
        fputs("none", out);
    fputs("\"><title>", out);
    flrq_chart_text(out, map->row_names ? map->row_names[row] : NULL);
    fputs("\n", out);
    flrq_chart_text(out, map->columns);
    fprintf(out, " %zu\n", col);
    flrq_chart_text(out, map->unit);
    fprintf(out, ": %s</title></rect>\n", full ? chart_value(v, 6).text : "none");
    if (full && h->numbers)
        fprintf(out,
                "<text x=\"%.2f\" y=\"%.2f\" font-size=\"10\" text-anchor=\"middle\" fill=\"%s\" stroke=\"none\" "
                "pointer-events=\"none\">%s</text>\n",
                x + h->wide / 2, y + h->high / 2 + 3.5, shade_of(h, v) > 0.55 ? "#fff" : CHART_INK,
                chart_value(v, 3).text);
}

/* Numbers of the columns, every 1st, 2nd, 5th, ... one, and names of the rows where they are not too low. */
static void put_heat_axes(FILE *out, const flrq_heat_map *map, const heat_layout *h) {
    static const size_t steps[] = {1, 2, 5};
    char last[24];
    snprintf(last, sizeof last, "%zu", map->cols - 1);
    double room = chart_text_width(last, CHART_TICK) + 8, bottom = h->top + (double)map->rows * h->high;
    size_t step = 1, every = h->high >= 12 ? 1 : (size_t)ceil(12 / h->high);
    for (size_t i = 0, scale = 1; (double)step * h->wide < room && step < map->cols; i++) {
        if (i % 3 == 0 && i > 0) scale *= 10;
        step = steps[i % 3] * scale;
    }
    for (size_t row = 0; map->row_names && row < map->rows; row += every)
        chart_put_text(out, h->left - 8, h->top + ((double)row + 0.5) * h->high + 4, "text-anchor=\"end\"", CHART_TICK,
                       NAME_ROOM, map->row_names[row]);
    fprintf(out, "<g class=\"x\" font-size=\"%d\" text-anchor=\"middle\">\n", CHART_TICK);
    for (size_t col = 0; col < map->cols; col += step)
        fprintf(out, "<text x=\"%.2f\" y=\"%.2f\">%zu</text>\n", h->left + ((double)col + 0.5) * h->wide, bottom + 15,
                col);
    fputs("</g>\n", out);
    double width = (double)map->cols * h->wide, label = chart_text_width(map->columns, CHART_FONT);
    chart_put_text(out, fmax(h->left + width / 2, h->left + label / 2), bottom + 33, "text-anchor=\"middle\"",
                   CHART_FONT, CHART_WIDTH - h->left, map->columns);
}

void flrq_chart_heat_map(FILE *out, const flrq_heat_map *map) {
    heat_layout h = heat_layout_make(map);
    bool empty = map->rows == 0 || map->cols == 0 || !h.any;
    double height = h.top + (empty ? 60 : (double)map->rows * h.high + 44);
    chart_open(out, map->title, map->note, CHART_WIDTH, height);
    if (empty)
        chart_no_data(out, CHART_WIDTH / 2.0, h.top + 24);
    else {
        put_heat_scale(out, map, &h);
        fprintf(out, "\n<g class=\"cells\" stroke=\"#fff\" stroke-width=\"%s\">\n",
                h.wide >= 5 && h.high > 5 ? "1" : "0");
        for (size_t row = 0; row < map->rows; row++)
            for (size_t col = 0; col < map->cols; col++) put_cell(out, map, &h, row, col);
        fputs("</g>\n", out);
        put_heat_axes(out, map, &h);
    }
    chart_close(out);
}

/* ---- bars ------------------------------------------------------------------------------------------------------- */

static double bar_value(const flrq_bars *bars, size_t i, size_t part) {
    double v = bars->values[i * bars->parts + part];
    return chart_drawable(v, false) && v > 0 ? fmin(v, 1e290) : 0; /* sums stay finite */
}

static double bar_total(const flrq_bars *bars, size_t i) {
    double total = 0;
    for (size_t k = 0; k < bars->parts; k++) total += bar_value(bars, i, k);
    return total;
}

/* Totals with as many decimals as give the largest four digits, so that they compare by their length. */
static chart_number total_text(double total, double largest) {
    chart_number n = chart_value(total, 4);
    if (largest >= 1e-3 && largest < 1e6)
        snprintf(n.text, sizeof n.text, "%.*f", (int)fmax(0, 3 - floor(log10(largest))), total);
    return n;
}

static void put_bar_swatch(FILE *out, size_t i, double x, double y, const void *user) {
    (void)user;
    fprintf(out, "<rect x=\"%.2f\" y=\"%.2f\" width=\"14\" height=\"12\" fill=\"%s\"/>", x - 3, y - 6, chart_colour(i));
}

static double put_bar_legend(FILE *out, const flrq_bars *bars, double y) {
    if (!bars->part_names || bars->parts < 2) return 0;
    return chart_legend(out, CHART_EDGE, CHART_WIDTH - CHART_EDGE, y, bars->part_names, bars->parts, put_bar_swatch,
                        NULL);
}

static void put_bar(FILE *out, const flrq_bars *bars, const chart_scale *x, size_t i, double y, double largest) {
    enum { BAR = 18 };
    double sum = 0;
    const char *name = bars->names ? bars->names[i] : NULL;
    chart_put_text(out, x->from - 8, y + BAR / 2.0 + 4, "text-anchor=\"end\"", CHART_TICK, NAME_ROOM, name);
    for (size_t k = 0; k < bars->parts; k++) {
        double v = bar_value(bars, i, k), from = chart_at(x, sum);
        sum += v;
        if (v <= 0) continue;
        fprintf(out, "<rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%d\" fill=\"%s\"><title>", from, y,
                chart_at(x, sum) - from, BAR, chart_colour(k));
        flrq_chart_text(out, name);
        if (bars->part_names) {
            fputs("\n", out);
            flrq_chart_text(out, bars->part_names[k]);
        }
        fprintf(out, ": %s", chart_value(v, 6).text);
        if (bars->unit) fputc(' ', out);
        flrq_chart_text(out, bars->unit);
        fputs("</title></rect>\n", out);
    }
    chart_put_text(out, chart_at(x, sum) + 6, y + BAR / 2.0 + 4, "class=\"total\"", CHART_TICK, 120,
                   total_text(sum, largest).text);
}

void flrq_chart_bars(FILE *out, const flrq_bars *bars) {
    enum { PITCH = 26 };
    const flrq_chart_axis axis = {.label = bars->unit};
    chart_range range = {.whole = false};
    double totals = 0, largest = 0, left = CHART_EDGE + names_width(bars->names, bars->count, CHART_TICK) + 10;
    double heading = chart_heading_height(bars->title, bars->note, CHART_WIDTH);
    double top = heading + put_bar_legend(NULL, bars, heading) + 4, bottom = top + (double)bars->count * PITCH;
    for (size_t i = 0; i < bars->count; i++) largest = fmax(largest, bar_total(bars, i));
    for (size_t i = 0; i < bars->count; i++) {
        double total = bar_total(bars, i);
        totals = fmax(totals, chart_text_width(total_text(total, largest).text, CHART_TICK));
        if (total > 0) chart_range_add(&range, total);
    }
    if (range.any) chart_range_add(&range, 0);
    bool empty = bars->count == 0 || bars->parts == 0;
    chart_open(out, bars->title, bars->note, CHART_WIDTH, empty ? top + 60 : bottom + 42);
    if (empty)
        chart_no_data(out, CHART_WIDTH / 2.0, top + 24);
    else {
        chart_scale x = chart_scale_make(&range, &axis, true, left, CHART_WIDTH - CHART_EDGE - totals - 8, 46);
        put_bar_legend(out, bars, heading);
        fprintf(out, "<path class=\"grid\" stroke=\"" CHART_GRID "\" d=\"");
        for (int i = 0; i < x.ticks; i++) fprintf(out, "M%.2f,%.2fV%.2f", chart_at(&x, x.tick[i]), top, bottom);
        fprintf(out, "\"/>\n<g class=\"x\" font-size=\"%d\" text-anchor=\"middle\">\n", CHART_TICK);
        for (int i = 0; i < x.ticks; i++)
            fprintf(out, "<text x=\"%.2f\" y=\"%.2f\">%s</text>\n", chart_at(&x, x.tick[i]), bottom + 15,
                    x.text[i].text);
        fputs("</g>\n", out);
        for (size_t i = 0; i < bars->count; i++) put_bar(out, bars, &x, i, top + (double)i * PITCH + 4, largest);
        fprintf(out, "<path stroke=\"" CHART_FRAME "\" d=\"M%.2f,%.2fV%.2f\"/>\n", left, top, bottom);
        chart_put_text(out, (left + x.to) / 2, bottom + 33, "text-anchor=\"middle\"", CHART_FONT, x.to - left,
                       bars->unit);
    }
    chart_close(out);
}
