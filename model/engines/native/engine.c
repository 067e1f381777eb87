#include "engine.h"

#include "bfloat16.h"
#include "doubling.h"
#include "float32.h"
#include "head.h"
#include "memory.h"
#include "network.h"
#include "workspace.h"

struct engine {
    struct thread_pool *pool, *single_thread;
    /* One of the two; the other is NULL. */
    struct float32_network *float32;
    struct bfloat16_network *bfloat16;
    int skips;
    struct doubling doublings[MAX_SKIPS];
    struct head head;
    /* One more than threads. A call with all threads uses the first. */
    struct workspace *workspaces;
};

/* One run of the network on a canvas: the threads and the memory that it uses. */
struct pass {
    const struct engine *engine;
    struct thread_pool *pool;
    struct workspace *workspace;
    long thread_floats; /* of scratch memory, for each thread */
};

/* ---- start and stop ---- */

static int pack(struct engine *engine, const struct network *network, int bfloat16)
{
    int classes = network->classes, skips = network->skips, stride = stride_with(skips);
    if (head_pack(&engine->head, network->head_kernel, network->head_bias, classes, stride) != 0)
        return -1;
    for (int skip = 0; skip < skips; skip++)
        if (doubling_pack(&engine->doublings[skip], network->doublings[skip], classes) != 0)
            return -1;
    engine->skips = skips;
    if (bfloat16)
        engine->bfloat16 = bfloat16_pack(network->convolutions, network->levels, classes, skips);
    else
        engine->float32 = float32_pack(network->convolutions, network->levels, classes, skips);
    return engine->bfloat16 || engine->float32 ? 0 : -1;
}

struct engine *engine_start(const struct network *network, int threads, int bfloat16)
{
    if (network->classes < 1 || network->classes > MAX_CLASSES || network->skips < 0 ||
        network->skips > MAX_SKIPS || (network->skips && network->head_kernel))
        return NULL;
    struct engine *engine = calloc(1, sizeof *engine);
    if (!engine)
        return NULL;
    engine->pool = thread_pool_start(threads);
    engine->single_thread = thread_pool_start(1);
    engine->workspaces = calloc(threads + 1, sizeof *engine->workspaces);
    if (engine->pool && engine->single_thread && engine->workspaces && pack(engine, network, bfloat16) == 0)
        return engine;
    engine_stop(engine);
    return NULL;
}

int engine_has_bfloat16(void) { return bfloat16_is_supported(); }

void engine_stop(struct engine *engine)
{
    if (engine->float32)
        float32_free(engine->float32);
    if (engine->bfloat16)
        bfloat16_free(engine->bfloat16);
    for (int skip = 0; skip < MAX_SKIPS; skip++)
        doubling_free(&engine->doublings[skip]);
    head_free(&engine->head);
    if (engine->workspaces && engine->pool)
        for (int workspace = 0; workspace <= thread_pool_size(engine->pool); workspace++)
            workspace_free(&engine->workspaces[workspace]);
    free(engine->workspaces);
    if (engine->pool)
        thread_pool_stop(engine->pool);
    if (engine->single_thread)
        thread_pool_stop(engine->single_thread);
    free(engine);
}

/* ---- passes ---- */

/* Provides scratch memory for each thread. In the head, the end of the first thread's part is shared. */
static int provide_scratch(struct pass *pass, int height, int width, const struct region *region)
{
    const struct engine *engine = pass->engine;
    const struct head *head = &engine->head;
    int threads = thread_pool_size(pass->pool);
    int scaled = region->height != region->output_height || region->width != region->output_width;
    int h = height / head->side, w = width / head->side;
    long network =
        engine->bfloat16 ? bfloat16_scratch(width) : float32_scratch(engine->float32, height, width, threads);
    long last = head_scratch(head, w, scaled) + head_shared_scratch(head, h, w, region->output_width);
    pass->thread_floats = (MAX(network, last) + SIMD_WIDTH - 1) / SIMD_WIDTH * SIMD_WIDTH;
    return workspace_provide_scratch(pass->workspace, threads * pass->thread_floats);
}

static int begin(struct pass *pass, struct engine *engine, struct thread_pool *pool, int workspace,
                 int height, int width, const struct region *region)
{
    *pass = (struct pass){engine, pool, &engine->workspaces[workspace], 0};
    return provide_scratch(pass, height, width, region) != 0
               ? -1
               : workspace_lay_out(pass->workspace, engine->head.classes, engine->skips,
                                   engine->bfloat16 != NULL, height, width);
}

static void end(struct pass *pass)
{
    int shared = pass->workspace == pass->engine->workspaces;
    workspace_trim(pass->workspace, shared, thread_pool_size(pass->pool));
}

/* ---- the network ---- */

static const struct feature_map *coarse_map(const struct pass *pass)
{
    return &pass->workspace->logits[pass->engine->skips];
}

static void run_network(const struct pass *pass, const uint8_t *canvas)
{
    const struct engine *engine = pass->engine;
    struct workspace *workspace = pass->workspace;
    struct feature_map *logits = workspace->logits;
    int height = workspace->height, width = workspace->width;
    if (engine->bfloat16)
        bfloat16_run(engine->bfloat16, pass->pool, canvas, height, width, workspace->maps, logits,
                     workspace->scratch, pass->thread_floats);
    else
        float32_run(engine->float32, pass->pool, canvas, height, width, workspace->maps, logits,
                    workspace->scratch, pass->thread_floats);
    for (int skip = 0; skip < engine->skips; skip++)
        add_doubled(pass->pool, &engine->doublings[skip], &logits[skip], &logits[skip + 1]);
}

static void run_head(const struct pass *pass, const struct region *region, int confidence, uint8_t *mask)
{
    const struct head *head = &pass->engine->head;
    const struct feature_map *coarse = coarse_map(pass);
    float *scratch = pass->workspace->scratch;
    long shared = head_shared_scratch(head, coarse->height, coarse->width, region->output_width);
    head_apply(pass->pool, head, coarse, *region, confidence, mask, scratch + pass->thread_floats - shared,
               scratch, pass->thread_floats);
}

static int segment(struct engine *engine, struct thread_pool *pool, int workspace, const uint8_t *canvas,
                   int height, int width, const struct region *region, int confidence, uint8_t *mask)
{
    struct pass pass;
    int failed = begin(&pass, engine, pool, workspace, height, width, region);
    if (!failed) {
        run_network(&pass, canvas);
        run_head(&pass, region, confidence, mask);
    }
    end(&pass);
    return failed;
}

int engine_segment(struct engine *engine, const uint8_t *canvas, int height, int width,
                   const struct region *region, int confidence, uint8_t *mask)
{
    return segment(engine, engine->pool, 0, canvas, height, width, region, confidence, mask);
}

int engine_segment_single_threaded(struct engine *engine, int workspace, const uint8_t *canvas, int height,
                                   int width, const struct region *region, int confidence, uint8_t *mask)
{
    return segment(engine, engine->single_thread, workspace, canvas, height, width, region, confidence, mask);
}

static int coarse_logits(struct engine *engine, struct thread_pool *pool, int workspace,
                         const uint8_t *canvas, int height, int width, float *logits)
{
    const struct region region = {height, width, height, width};
    struct pass pass;
    if (begin(&pass, engine, pool, workspace, height, width, &region) != 0)
        return -1;
    run_network(&pass, canvas);
    const struct feature_map *coarse = coarse_map(&pass);
    for (int class = 0; class < engine->head.classes; class++)
        for (int y = 0; y < coarse->height; y++)
            for (int x = 0; x < coarse->width; x++)
                *logits++ = pixel(coarse, class / SIMD_WIDTH, y, x)[class % SIMD_WIDTH];
    end(&pass);
    return 0;
}

int engine_coarse_logits(struct engine *engine, const uint8_t *canvas, int height, int width, float *logits)
{
    return coarse_logits(engine, engine->pool, 0, canvas, height, width, logits);
}

int engine_coarse_logits_single_threaded(struct engine *engine, int workspace, const uint8_t *canvas,
                                         int height, int width, float *logits)
{
    return coarse_logits(engine, engine->single_thread, workspace, canvas, height, width, logits);
}

int engine_head(struct engine *engine, const float *logits, int height, int width,
                const struct region *region, int confidence, uint8_t *mask)
{
    struct pass pass;
    int side = engine->head.side;
    if (begin(&pass, engine, engine->pool, 0, side * height, side * width, region) != 0)
        return -1;
    for (int class = 0; class < engine->head.classes; class++)
        for (int y = 0; y < height; y++)
            for (int x = 0; x < width; x++)
                pixel(coarse_map(&pass), class / SIMD_WIDTH, y, x)[class % SIMD_WIDTH] = *logits++;
    run_head(&pass, region, confidence, mask);
    end(&pass);
    return 0;
}
