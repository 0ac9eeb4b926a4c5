/* report_page.h - what the files of the report's page share: the report as rows and columns, and the words of its HTML.
 *
 * Private to report_*.c. Everything that a report may lack is NaN or NULL here, and left out of the page.
 */
#ifndef FLRQ_PIPELINE_REPORT_PAGE_H
#define FLRQ_PIPELINE_REPORT_PAGE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include "pipeline/job.h"

/** Kinds of matrices ("mlp.down_proj") and layers that figures show. A model of more is shown by its tables alone. */
enum { REPORT_KINDS = 64, REPORT_LAYERS = 1024 };

/** report.json, its matrices by kind and layer. Strings are borrowed from it. */
typedef struct report_view {
    const json_t *report, *matrices, *blocks;
    size_t kinds, layers;
    const char *kind[REPORT_KINDS];
    const json_t **at; /* [kinds, layers], NULL where there is no such matrix */
    double *room;      /* [4, kinds, layers], for the values of a figure */
} report_view;

/** Field of an object: NaN when absent or not a number; NULL when absent or not a text. */
double report_real(const json_t *object, const char *key);
const char *report_text(const json_t *object, const char *key);

/** Share of bits_breakdown and of flrq_report_bits(), as the page calls them. */
extern const char *const report_parts[];

/* ---- HTML (report_html.c) ---------------------------------------------------------------------------------------- */

/** How a number is written. NaN is a dash everywhere. */
typedef enum report_form {
    REPORT_COUNT,   /* "6,738,415,616" */
    REPORT_LARGE,   /* "6.74 billion" */
    REPORT_FIXED1,  /* "12.3" */
    REPORT_FIXED4,  /* "4.2531" */
    REPORT_DIGITS,  /* four significant digits: "0.03124" */
    REPORT_SHORT,   /* up to three: "0.031" */
    REPORT_PERCENT, /* of a fraction: "12.3 %" */
    REPORT_CHANGE,  /* the same with a sign: "-12.3 %" */
    REPORT_BYTES,   /* "3.2 GB", powers of 1000 */
    REPORT_SECONDS  /* "0.42 s", "12.3 s", "2 min 31 s", "1 h 02 min" */
} report_form;

typedef struct report_number {
    char text[48];
} report_number;

report_number report_format(report_form form, double value);

/** The number as shown, with its exact value for programs: <data value="0.0312401">0.03124</data>. */
void report_data(FILE *out, report_form form, double value);

/** A table in a box that scrolls sideways: open, head, rows of cells between report_row() and the next, close. Names of
 *  columns that begin with '<' are of texts and stand to the left. */
void report_table(FILE *out, const char *const *columns, size_t count);
void report_row(FILE *out);
void report_cell(FILE *out, report_form form, double value);
void report_cell_text(FILE *out, const char *text);
void report_cell_shape(FILE *out, const json_t *matrix);
void report_table_end(FILE *out);

/** The table behind a figure, folded: begins and ends around report_table(). */
void report_fold(FILE *out, const char *title);
void report_fold_end(FILE *out);

/** Head of the page with its style sheet, up to <body>. */
void report_head(FILE *out, const char *title);

/* ---- sections (report_sections.c) -------------------------------------------------------------------------------- */

/** A part of the page below the summary. */
typedef struct report_section {
    const char *id, *title;
    bool (*present)(const report_view *view); /* the report has what it shows */
    void (*put)(FILE *out, const report_view *view);
} report_section;

extern const report_section report_sections[];
extern const size_t report_section_count;

#endif
