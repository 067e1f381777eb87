/* The engine: canvases of uint8 RGB to masks of uint8, with a pool of threads. Python calls it from
   model/engines/native_engine.py; native/binding.py repeats these declarations. */
#ifndef ENGINE_H
#define ENGINE_H

#include <stdint.h>

struct engine;
struct region;

/* What the engine computes. Its arrays are copied. */
struct network {
    /* Kernel and bias of the stem, of the eight residual blocks (first, second, and the shortcut of the 3rd,
       5th and 7th block), of the classifier and of the skips' classifiers, in that order. */
    const float *const *convolutions;
    const float *const *doublings; /* the kernel of each skip's doubling, see doubling_pack */
    const float *levels;           /* (3, 256): each channel's normalised levels */
    const float *head_kernel;      /* see head_pack; with skips NULL, for bilinear interpolation */
    const float *head_bias;
    int32_t classes, skips;
};

/* `bfloat16`: whether to compute in bfloat16, which needs engine_has_bfloat16. Returns NULL if memory or
   threads are not available, and for less than one or more than 255 classes. */
struct engine *engine_start(const struct network *network, int threads, int bfloat16);
int engine_has_bfloat16(void);
void engine_stop(struct engine *engine);

/* Turns a canvas (height, width, 3), whose sides are multiples of 32, into its mask, with all threads.
   With `confidence`, each byte is not a class but its softmax, times 255 and rounded. Returns 0, or -1
   without memory. One caller at a time. */
int engine_segment(struct engine *engine, const uint8_t *canvas, int height, int width,
                   const struct region *region, int confidence, uint8_t *mask);

/* The same on the calling thread alone. Each concurrent caller uses its own `workspace`, from 0 to the number
   of threads. Not to be called during engine_segment. */
int engine_segment_single_threaded(struct engine *engine, int workspace, const uint8_t *canvas, int height,
                                   int width, const struct region *region, int confidence, uint8_t *mask);

/* Computes a canvas' coarse logits (classes, height / stride, width / stride). Returns 0, or -1 without
   memory. */
int engine_coarse_logits(struct engine *engine, const uint8_t *canvas, int height, int width, float *logits);

/* The same on the calling thread alone, as engine_segment_single_threaded. */
int engine_coarse_logits_single_threaded(struct engine *engine, int workspace, const uint8_t *canvas,
                                         int height, int width, float *logits);

/* The same as engine_segment, from coarse logits (classes, height, width). */
int engine_head(struct engine *engine, const float *logits, int height, int width,
                const struct region *region, int confidence, uint8_t *mask);

#endif
