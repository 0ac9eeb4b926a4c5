/* chart.h - figures as SVG: points and lines on two axes, heat maps, stacked bars.
 *
 * A figure is one <svg> element that needs nothing beside it: no script, no style sheet, no font, no network; it stands
 * alone as a file or inside a page, on white paper of its own. Text is escaped, so names from a checkpoint may be
 * anything; what is too long for its place ends in an ellipsis and stands whole in a <title>. Every mark carries its
 * numbers as a <title>, which browsers show on hovering. Series differ in colour (a palette that colour-blind readers
 * can tell apart) and in shape, so that they survive a grey printer. Values that are not finite, or not positive on a
 * logarithmic axis, are left out; a figure without any says "no data". Output is a pure function of the input: the same
 * data give the same bytes.
 *
 * Everything goes to a FILE (of open_memstream() or on disk); the caller looks at ferror() when it closes it.
 */
#ifndef FLRQ_PIPELINE_CHART_H
#define FLRQ_PIPELINE_CHART_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

typedef struct flrq_chart_axis {
    const char *label; /* what and in which unit: "total bits per weight" */
    bool log;
    double low, high; /* range, so that figures can be compared; both 0, or a value outside: from the data */
} flrq_chart_axis;

/** Points in the order given; with `line` they are joined, with a gap where one is left out. */
typedef struct flrq_chart_series {
    const char *name; /* in the legend; NULL: not there */
    size_t count;
    const double *x, *y;
    const double *low, *high;  /* spread of y, drawn as a bar through the point; NULL: none */
    const char *const *labels; /* beside the points, NULL entries have none; NULL: none at all. One that finds no free
                                  place stands in the point's <title> alone. */
    bool line, points;         /* neither: points */
} flrq_chart_series;

typedef struct flrq_chart {
    const char *title;
    const char *note; /* a smaller line below the title: conditions of the measurement; NULL: none */
    flrq_chart_axis x, y;
    const flrq_chart_series *series;
    size_t count;
    int width, height; /* of the figure; of the area between its axes: 0, 0: 680, 300. For small figures side by side */
} flrq_chart;

/** Series on two axes, with ticks, grid and, above them, the legend. */
void flrq_chart_xy(FILE *out, const flrq_chart *chart);

/** A map of rows x cols cells, darker for larger values; the scale stands above it. Column numbers count from 0. */
typedef struct flrq_heat_map {
    const char *title, *note;
    const char *columns; /* what the columns are: "layer" */
    const char *unit;    /* what the values are: "rank" */
    size_t rows, cols;
    const char *const *row_names;
    const double *values; /* [rows, cols]; NaN: an empty cell */
} flrq_heat_map;

void flrq_chart_heat_map(FILE *out, const flrq_heat_map *map);

/** Horizontal bars from zero, each a stack of `parts` (1: plain bars), with its total at the end. */
typedef struct flrq_bars {
    const char *title, *note;
    const char *unit; /* label of the axis: "seconds" */
    size_t count, parts;
    const char *const *names;      /* [count] */
    const char *const *part_names; /* [parts], in the legend; NULL with one part */
    const double *values;          /* [count, parts], not negative; what is not drawn counts as 0 */
} flrq_bars;

void flrq_chart_bars(FILE *out, const flrq_bars *bars);

/** A text with the five characters that XML and HTML reserve escaped. Control characters, those that turn the direction
 *  of writing, and bytes that are not UTF-8 become '?'. NULL: nothing. */
void flrq_chart_text(FILE *out, const char *text);

#endif
