/* chart_draw.h - what the figures share: texts of a known width, scales with round ticks, heading and legend.
 *
 * Private to chart_*.c. Lengths are units of the view box (CSS pixels at full size), y grows downwards. SVG knows the
 * width of a text only when it is shown, so widths here are estimates on the wide side (those of a wide sans-serif).
 */
#ifndef FLRQ_PIPELINE_CHART_DRAW_H
#define FLRQ_PIPELINE_CHART_DRAW_H

#include "pipeline/chart.h"

enum { CHART_WIDTH = 680, CHART_TITLE = 15, CHART_FONT = 12, CHART_TICK = 11, CHART_TICKS = 40, CHART_EDGE = 12 };

#define CHART_INK   "#222"
#define CHART_FAINT "#595959"
#define CHART_GRID  "#e4e4e4"
#define CHART_FRAME "#8a8a8a"

/* ---- texts and numbers ------------------------------------------------------------------------------------------- */

typedef struct chart_number {
    char text[40];
} chart_number;

/** A number to read: up to `digits` significant digits, "1.5e7" from a million on and below 0.0001. */
chart_number chart_value(double value, int digits);

/** Estimated width of a text; NULL: 0. */
double chart_text_width(const char *text, double size);

/** A <text> element, cut to `room`; `attributes` may be "". NULL and "" draw nothing. */
void chart_put_text(FILE *out, double x, double y, const char *attributes, double size, double room, const char *text);

/* ---- scales ------------------------------------------------------------------------------------------------------ */

/** From values to a length; low and high are logarithms to the base 10 on a logarithmic one. */
typedef struct chart_scale {
    bool log;
    double low, high, from, to;
    int ticks;
    double tick[CHART_TICKS];
    chart_number text[CHART_TICKS];
} chart_scale;

/** What is known of the values of an axis. Begins as {.log = axis.log, .whole = true}. */
typedef struct chart_range {
    bool log, any, whole; /* whole: all of them are integers */
    double low, high;
} chart_range;

/** False for what cannot be drawn: not finite, beyond 1e300, not positive on a logarithmic axis. */
bool chart_drawable(double value, bool log);

void chart_range_add(chart_range *range, double value);

/** A scale over the range: with `snap` from tick to tick, else with a little air; one that begins near zero begins at
 *  zero when `snap` is set. Equal values get a range around them, no values one from 0 to 1. Labels of ticks stand
 *  about `room` apart, where the range has no two such ticks half of that. `axis` may fix the range. */
chart_scale chart_scale_make(const chart_range *range, const flrq_chart_axis *axis, bool snap, double from, double to,
                             double room);

double chart_at(const chart_scale *scale, double value);

/** Widest label of a tick. */
double chart_tick_width(const chart_scale *scale);

/* ---- parts of a figure ------------------------------------------------------------------------------------------- */

/** Colour `i` of the palette (Okabe and Ito, "Color universal design", without the yellow that white paper swallows).
 */
const char *chart_colour(size_t i);

/** Entries of a legend from `y` downwards, in rows from `left` to `right`: `swatch` draws the sample of entry `i`, 22
 *  wide, around the point (x, y). Unnamed entries are left out. Returns the height; `out` NULL: only that. */
double chart_legend(FILE *out, double left, double right, double y, const char *const *names, size_t count,
                    void (*swatch)(FILE *out, size_t i, double x, double y, const void *user), const void *user);

/** Height of title and note. */
double chart_heading_height(const char *title, const char *note, double width);

/** Opens the figure: <svg>, paper, title and note. chart_close() ends it. */
void chart_open(FILE *out, const char *title, const char *note, double width, double height);

void chart_close(FILE *out);

/** The middle of an empty figure. */
void chart_no_data(FILE *out, double x, double y);

#endif
