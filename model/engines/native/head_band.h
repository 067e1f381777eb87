/* Logits for outputs whose size differs from the image's: bands of rows that stay in the cache, so the full
   logits never exist. */
#ifndef HEAD_BAND_H
#define HEAD_BAND_H

#include "head_job.h"

/* The logits of a row of tiles' pixels and of the row of pixels below: (classes, band_rows, line). */
struct band {
    float *logits;
    uint8_t *labels;  /* (band_rows, line), not filled */
    long line, plane; /* floats from row to row, from class to class */
    int top, rows;    /* its first row, which may lie above the image, and its rows that are filled */
    int first, last;  /* its rows of the image without the row below; none if they are equal */
};

struct band head_fill_band(const struct head_job *job, int tile_y, float *scratch);

#endif
