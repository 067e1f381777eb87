/* The layout of ResNet-18 after its stem, the same for every precision. */
#ifndef NETWORK_H
#define NETWORK_H

#define RESIDUAL_BLOCKS 8
#define STAGES 4 /* of ResNet: canvas / 4, / 8, / 16 and / 32, with 64 to 512 channels */
/* Feature maps of each stage: a residual block's input, which becomes its output, and its middle. */
#define FEATURE_MAPS 2

/* Each skip doubles the coarse logits and adds the logits of the previous stage. */
#define MAX_SKIPS 2

/* Classifier 0 belongs to the last stage, the others to the skips. */
static inline int classified_stage(int classifier) { return STAGES - 1 - classifier; }
/* The distance between two coarse logits in pixels. */
static inline int stride_with(int skips) { return 32 >> skips; }
static inline int stage_of(int block) { return block / 2; }
static inline int has_shortcut(int block) { return block > 0 && block % 2 == 0; }
static inline int channels_at(int stage) { return 64 << stage; }
static inline int side_at(int stage, int canvas_side) { return canvas_side / (4 << stage); }

#endif
