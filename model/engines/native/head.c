/* Two facts make it cheap. Where one class has the largest logit at two points, it has it everywhere
   between them, for interpolation is linear: so only tiles, or pixels of a scaled mask, whose corners differ
   need all classes. And the picture's rows are computed in blocks that stay in the cache, so the full
   logits never exist. */
#include "head.h"

#include "memory.h"
#include "product.h"

#define TILE 32
#define HALF (TILE / 2)
#define TILE_VECTORS (TILE / SIMD_WIDTH) /* vectors in a tile's row */

/* The coarse logits around which the tiles lie: (height + 2) x (width + 2), framed by zeros, as
   transposed columns for the dense product, or with the classes last for interpolation. */
struct head_job {
    const struct head *head;
    struct region region;
    int height, width; /* of the coarse logits */
    const float *cells;
    const float *shares; /* of a scaled mask: for each column, how far it is past its source column */
    const int *starts;   /* and the first column of each source column, and the end */
    uint8_t *mask;
    float *scratch;
    long scratch_floats;
};

/* What one row of tiles needs: the logits of PRODUCT_ROWS tiles, or the ends between which they lie. */
static long row_floats(const struct head *head, int width)
{
    return head->classes * MAX(PRODUCT_ROWS * TILE, width + 2L);
}

static long cell_floats(const struct head *head, int height, int width)
{
    return head->classes * MAX(4 * (height + 1L) * (width + 1), (height + 2L) * (width + 2));
}

static int tile_columns(const struct head_job *job) { return job->width + 1; }
static int tile_rows(const struct head_job *job) { return job->height + 1; }

/* ---- the coarse logits, as each kernel wants them ---- */

INLINE float coarse_at(const struct feature_map *coarse, int class, int y, int x)
{
    if (y < 0 || x < 0 || y >= coarse->height || x >= coarse->width)
        return 0;
    return pixel(coarse, class / SIMD_WIDTH, y, x)[class % SIMD_WIDTH];
}

/* (4 * classes, tiles): row k has coarse logit k of each tile. */
static void gather_columns(const struct head *head, const struct feature_map *coarse, float *cells)
{
    for (int corner = 0; corner < 4; corner++)
        for (int class = 0; class < head->classes; class++)
            for (int y = 0; y <= coarse->height; y++)
                for (int x = 0; x <= coarse->width; x++)
                    *cells++ = coarse_at(coarse, class, y - 1 + corner / 2, x - 1 + corner % 2);
}

/* (height + 2, width + 2, classes), the bias added: a tile's four weights add up to one. */
static void gather_cells(const struct head *head, const struct feature_map *coarse, float *cells)
{
    for (int y = -1; y <= coarse->height; y++)
        for (int x = -1; x <= coarse->width; x++)
            for (int class = 0; class < head->classes; class++)
                *cells++ = coarse_at(coarse, class, y, x) + head->bias[class];
}

/* ---- the logits of one row of pixels in a row of tiles ---- */

/* For `rows` tiles and one class: its logits in PRODUCT_VECTORS vectors of one row of the tiles. */
INLINE void multiply_tiles(int rows, const float *cells, long tiles, int depth, const float *kernel,
                           float bias, float *to)
{
    vec sums[PRODUCT_ROWS][PRODUCT_VECTORS];
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int c = 0; c < PRODUCT_VECTORS; c++)
            sums[r][c] = splat(bias);
    for (int k = 0; k < depth; k++, cells += tiles, kernel += TILE)
        add_products(rows, sums, cells, 1, kernel);
    store_sums(rows, sums, to, TILE, SIMD_WIDTH);
}

/* All classes for up to PRODUCT_ROWS tiles, from `first` on, in row `dy`: (classes, PRODUCT_ROWS, 32). */
INLINE void dense_rows(const struct head_job *job, int first, int rows, int dy, float *logits)
{
    const struct head *head = job->head;
    int classes = head->classes, depth = 4 * classes;
    long tiles = (long)tile_rows(job) * tile_columns(job);
    for (int class = 0; class < classes; class++, logits += PRODUCT_ROWS * TILE)
        for (int vector = 0; vector < TILE_VECTORS; vector += PRODUCT_VECTORS) {
            const float *kernel =
                head->kernel + ((long)dy * classes + class) * depth * TILE + vector * SIMD_WIDTH;
            const float *cells = job->cells + first;
            float bias = head->bias[class], *to = logits + vector * SIMD_WIDTH;
            /* The remainder in halves and quarters, each of fixed size. */
            for (int done = 0, piece = PRODUCT_ROWS; done < rows; piece = MAX(1, piece / 2))
                for (; done + piece <= rows; done += piece) {
                    if (piece == PRODUCT_ROWS)
                        multiply_tiles(PRODUCT_ROWS, cells + done, tiles, depth, kernel, bias,
                                       to + done * TILE);
                    else if (piece == PRODUCT_ROWS / 2)
                        multiply_tiles(PRODUCT_ROWS / 2, cells + done, tiles, depth, kernel, bias,
                                       to + done * TILE);
                    else if (piece == PRODUCT_ROWS / 4)
                        multiply_tiles(PRODUCT_ROWS / 4, cells + done, tiles, depth, kernel, bias,
                                       to + done * TILE);
                    else
                        multiply_tiles(1, cells + done, tiles, depth, kernel, bias, to + done * TILE);
                }
        }
}

/* Between the cells of the rows above and below, both ends' logits: (width + 2, classes). */
static void blend_cells(const struct head_job *job, int tile_y, int dy, float *ends)
{
    int line = (job->width + 2) * job->head->classes;
    const float *above = job->cells + (long)tile_y * line, *below = above + line;
    float share = (dy + .5f) / TILE;
    for (int i = 0; i < line; i++)
        ends[i] = above[i] + (below[i] - above[i]) * share;
}

/* The pixels of a row of 32 between two ends, vector c of them. */
INLINE vec shares_between(int c)
{
    vec share;
    for (int i = 0; i < SIMD_WIDTH; i++)
        share[i] = (c * SIMD_WIDTH + i + .5f) / TILE;
    return share;
}

static int best_class(const float *logits, int classes)
{
    int best = 0;
    for (int class = 1; class < classes; class++)
        if (logits[class] > logits[best])
            best = class;
    return best;
}

/* Of equal logits the first class keeps the pixel. */
INLINE void take_larger(vec next, int class, vec *best, int_vec *label)
{
    int_vec larger = next > *best;
    *best = select_vec(larger, next, *best);
    *label = (larger & class) | (~larger & *label);
}

/* ---- a mask of the canvas' own size ---- */

INLINE void write_labels(uint8_t *to, int_vec labels, int count)
{
    typedef uint8_t byte_vec __attribute__((vector_size(SIMD_WIDTH)));
    byte_vec bytes = __builtin_convertvector(labels, byte_vec);
    memcpy(to, &bytes, count);
}

/* A tile's row of labels, cut at the mask's sides. */
static void write_tile_row(const struct head_job *job, int y, int tile_x, const uint8_t *labels)
{
    int x = tile_x * TILE - HALF, first = MAX(0, -x), last = MIN(TILE, job->region.output_width - x);
    if (last > first)
        memcpy(job->mask + (long)y * job->region.output_width + x + first, labels + first, last - first);
}

/* A task: row `dy` of all tiles, for the kernel's vector for that row stays in the cache. */
static void dense_task(void *context, int dy, int thread)
{
    const struct head_job *job = context;
    int classes = job->head->classes, columns = tile_columns(job);
    float *logits = job->scratch + thread * job->scratch_floats;
    /* Of the first row of tiles only the lower half is picture, of the last only the upper half. */
    int first = dy < HALF ? columns : 0, tiles = job->height * columns;
    for (int t = first; t < first + tiles; t += PRODUCT_ROWS) {
        int rows = MIN(PRODUCT_ROWS, first + tiles - t);
        if ((t / columns) * TILE - HALF + dy >= job->region.output_height)
            break;
        dense_rows(job, t, rows, dy, logits);
        for (int r = 0; r < rows; r++) {
            int y = (t + r) / columns * TILE - HALF + dy;
            if (y >= job->region.output_height)
                break;
            uint8_t labels[TILE];
            for (int c = 0; c < TILE_VECTORS; c++) {
                const float *from = logits + r * TILE + c * SIMD_WIDTH;
                vec best = load(from);
                int_vec label = {0};
                for (int class = 1; class < classes; class++)
                    take_larger(load(from + (long)class * PRODUCT_ROWS * TILE), class, &best, &label);
                write_labels(labels + c * SIMD_WIDTH, label, SIMD_WIDTH);
            }
            write_tile_row(job, y, (t + r) % columns, labels);
        }
    }
}

/* A task: a row of tiles. */
static void bilinear_task(void *context, int tile_y, int thread)
{
    const struct head_job *job = context;
    int classes = job->head->classes;
    float *ends = job->scratch + thread * job->scratch_floats;
    for (int dy = 0; dy < TILE; dy++) {
        int y = tile_y * TILE - HALF + dy;
        if (y < 0 || y >= job->region.output_height)
            continue;
        blend_cells(job, tile_y, dy, ends);
        int left = best_class(ends, classes);
        for (int tile_x = 0; tile_x < tile_columns(job); tile_x++) {
            const float *from = ends + tile_x * classes, *to = from + classes;
            int right = best_class(to, classes);
            uint8_t labels[TILE];
            if (left == right) {
                memset(labels, left, TILE);
            } else {
                for (int c = 0; c < TILE_VECTORS; c++) {
                    vec share = shares_between(c), best = from[0] + (to[0] - from[0]) * share;
                    int_vec label = {0};
                    for (int class = 1; class < classes; class++)
                        take_larger(from[class] + (to[class] - from[class]) * share, class, &best, &label);
                    write_labels(labels + c * SIMD_WIDTH, label, SIMD_WIDTH);
                }
            }
            write_tile_row(job, y, tile_x, labels);
            left = right;
        }
    }
}

/* ---- a mask of another size ---- */

/* Where an output pixel lies between the `source` pixels of its line: half-pixel centres, edge values
   repeated. */
INLINE int source_pixel(int i, int source, int output, float *share)
{
    double position = MAX((i + .5) * source / output - .5, 0.);
    int first = MIN((int)position, source - 1);
    *share = (float)(position - first);
    return first;
}

/* The first output pixel whose source pixel is `i` or further. */
static int first_output(int i, int source, int output)
{
    float share;
    int guess = (int)((i + .5) * output / source - .5) - 1;
    guess = i <= 0 ? 0 : MIN(MAX(guess, 0), output);
    while (guess > 0 && source_pixel(guess - 1, source, output, &share) >= i)
        guess--;
    while (guess < output && source_pixel(guess, source, output, &share) < i)
        guess++;
    return guess;
}

/* The logits of 33 rows of pixels, from `HALF` above a row of tiles' first cell on: (classes, 33, width). */
struct band {
    float *logits;
    uint8_t *labels; /* (33, width) */
    long line;       /* pixels of one row, 32 * (w + 1) */
};
#define BAND_ROWS (TILE + 1)

static struct band band_in(const struct head_job *job, float *scratch)
{
    struct band band;
    band.line = (long)tile_columns(job) * TILE;
    band.logits = scratch + row_floats(job->head, job->width);
    band.labels = (uint8_t *)(band.logits + job->head->classes * BAND_ROWS * band.line);
    return band;
}

static void fill_band(const struct head_job *job, const struct band *band, int tile_y, int rows,
                      float *scratch)
{
    int classes = job->head->classes, columns = tile_columns(job);
    for (int row = 0; row < rows; row++) {
        int at = tile_y + row / TILE, dy = row % TILE;
        float *to = band->logits + row * band->line;
        long plane = BAND_ROWS * band->line;
        if (job->head->kernel) {
            for (int x = 0; x < columns; x += PRODUCT_ROWS) {
                int tiles = MIN(PRODUCT_ROWS, columns - x);
                dense_rows(job, at * columns + x, tiles, dy, scratch);
                for (int class = 0; class < classes; class++)
                    memcpy(to + class * plane + x * TILE, scratch + class * PRODUCT_ROWS * TILE,
                           tiles * TILE * sizeof *to);
            }
        } else {
            blend_cells(job, at, dy, scratch);
            for (int x = 0; x < columns; x++)
                for (int class = 0; class < classes; class++) {
                    float from = scratch[x * classes + class], end = scratch[(x + 1) * classes + class];
                    for (int c = 0; c < TILE_VECTORS; c++)
                        store(to + class * plane + x * TILE + c * SIMD_WIDTH,
                              from + (end - from) * shares_between(c));
                }
        }
        uint8_t *labels = band->labels + row * band->line;
        for (long x = 0; x < band->line; x += SIMD_WIDTH) {
            vec best = load(to + x);
            int_vec label = {0};
            for (int class = 1; class < classes; class++)
                take_larger(load(to + class * plane + x), class, &best, &label);
            write_labels(labels + x, label, SIMD_WIDTH);
        }
    }
}

/* The output pixels between four source pixels that do not all belong to one class. */
static void fill_between(const struct head_job *job, const struct band *band, int row, int next_row, long x,
                         long next_x, int first_y, int last_y, int first_x, int last_x)
{
    const struct region *region = &job->region;
    int classes = job->head->classes, candidates[MAX_CLASSES], count = 0;
    float corners[4][MAX_CLASSES];
    long plane = BAND_ROWS * band->line;
    const long at[4] = {row * band->line + x, row * band->line + next_x, next_row * band->line + x,
                        next_row * band->line + next_x};
    for (int class = 0; class < classes; class++) {
        int beaten = 0;
        for (int corner = 0; corner < 4; corner++)
            corners[corner][class] = band->logits[class * plane + at[corner]];
        for (int corner = 0; corner < 4 && !beaten; corner++) {
            /* Beaten at every corner by one that wins at some corner: never the largest. */
            int winner = band->labels[at[corner]];
            beaten = winner != class;
            for (int other = 0; other < 4; other++)
                beaten &= corners[other][class] < band->logits[winner * plane + at[other]];
        }
        if (!beaten)
            candidates[count++] = class;
    }
    for (int y = first_y; y < last_y; y++) {
        float down;
        source_pixel(y, region->height, region->output_height, &down);
        float left[MAX_CLASSES], slope[MAX_CLASSES];
        for (int i = 0; i < count; i++) {
            int class = candidates[i];
            left[i] = corners[0][class] + (corners[2][class] - corners[0][class]) * down;
            slope[i] = corners[1][class] + (corners[3][class] - corners[1][class]) * down - left[i];
        }
        uint8_t *to = job->mask + (long)y * region->output_width;
        for (int out = first_x; out < last_x; out += SIMD_WIDTH) {
            vec share = load(job->shares + out), best = left[0] + slope[0] * share;
            int_vec label = (int_vec){0} + candidates[0];
            for (int i = 1; i < count; i++)
                take_larger(left[i] + slope[i] * share, candidates[i], &best, &label);
            write_labels(to + out, label, MIN(SIMD_WIDTH, last_x - out));
        }
    }
}

/* The output rows between one row of source pixels and the next. */
static void fill_output_rows(const struct head_job *job, const struct band *band, int row, int next_row,
                             int first_y, int last_y)
{
    const struct region *region = &job->region;
    const uint8_t *above = band->labels + row * band->line + HALF;
    const uint8_t *below = band->labels + next_row * band->line + HALF;
    uint8_t *first = job->mask + (long)first_y * region->output_width;
    if (first_y == last_y)
        return;
    for (int x = 0; x < region->width; x++)
        memset(first + job->starts[x], above[x], job->starts[x + 1] - job->starts[x]);
    for (int y = first_y + 1; y < last_y; y++)
        memcpy(job->mask + (long)y * region->output_width, first, region->output_width);
    for (int x = 0; x < region->width; x++) {
        int next = MIN(x + 1, region->width - 1);
        if (above[x] != above[next] || above[x] != below[x] || above[x] != below[next])
            fill_between(job, band, row, next_row, HALF + x, HALF + next, first_y, last_y, job->starts[x],
                         job->starts[x + 1]);
    }
}

/* A task: the output rows whose source pixel lies in one row of tiles. */
static void scaled_task(void *context, int tile_y, int thread)
{
    const struct head_job *job = context;
    const struct region *region = &job->region;
    float *scratch = job->scratch + thread * job->scratch_floats;
    struct band band = band_in(job, scratch);
    int top = tile_y * TILE - HALF;
    int first = MAX(top, 0), last = MIN(top + TILE, region->height);
    if (first >= last)
        return;
    int rows = MIN(BAND_ROWS, (job->height + 1) * TILE - HALF - top);
    fill_band(job, &band, tile_y, MIN(rows, region->height - top), scratch);
    for (int y = first; y < last; y++)
        fill_output_rows(job, &band, y - top, MIN(y + 1, region->height - 1) - top,
                         first_output(y, region->height, region->output_height),
                         first_output(y + 1, region->height, region->output_height));
}

/* ---- all of it ---- */

void head_apply(struct thread_pool *pool, const struct head *head, const struct feature_map *coarse,
                struct region region, uint8_t *mask, float *shared, float *scratch, long scratch_floats)
{
    int scaled = region.height != region.output_height || region.width != region.output_width;
    float *cells = shared, *shares = cells + cell_floats(head, coarse->height, coarse->width);
    int *starts = (int *)(shares + (scaled ? region.output_width + SIMD_WIDTH : 0));
    struct head_job job = {head,   region, coarse->height, coarse->width, cells,
                           shares, starts, mask,           scratch,       scratch_floats};
    if (head->kernel)
        gather_columns(head, coarse, cells);
    else
        gather_cells(head, coarse, cells);
    if (scaled) {
        for (int x = 0; x < region.output_width; x++)
            source_pixel(x, region.width, region.output_width, shares + x);
        for (int x = 0; x <= region.width; x++)
            starts[x] = first_output(x, region.width, region.output_width);
        thread_pool_run(pool, tile_rows(&job), scaled_task, &job);
    } else if (head->kernel) {
        thread_pool_run(pool, TILE, dense_task, &job);
    } else {
        thread_pool_run(pool, tile_rows(&job), bilinear_task, &job);
    }
}

long head_shared_scratch(const struct head *head, int height, int width, int output_width)
{
    return cell_floats(head, height, width) + output_width + SIMD_WIDTH + (long)width * TILE + 1;
}

long head_scratch(const struct head *head, int width, int scaled)
{
    long line = (width + 1L) * TILE, band = head->classes * BAND_ROWS * line + BAND_ROWS * line / 4;
    return row_floats(head, width) + (scaled ? band : 0) + SIMD_WIDTH;
}

int head_pack(struct head *head, const float *kernel, const float *bias, int classes)
{
    long floats = (long)TILE * classes * 4 * classes * TILE;
    *head = (struct head){classes, NULL, allocate_floats(classes)};
    if (!head->bias)
        return -1;
    memcpy(head->bias, bias, classes * sizeof(float));
    if (!kernel)
        return 0;
    head->kernel = allocate_floats(floats);
    if (!head->kernel)
        return -1;
    memcpy(head->kernel, kernel, floats * sizeof(float));
    return 0;
}

void head_free(struct head *head)
{
    free(head->kernel);
    free(head->bias);
}
