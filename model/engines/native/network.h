/* ResNet-18's layout behind its stem, whatever it is computed in. */
#ifndef NETWORK_H
#define NETWORK_H

#define BLOCKS 8
#define LEVELS 4   /* of resolution: canvas / 4, / 8, / 16, / 32, with 64 to 512 channels */
#define PICTURES 2 /* of each level: a block's input, which becomes its output, and its middle */

static inline int level_of(int block) { return block / 2; }
static inline int has_shortcut(int block) { return block > 0 && block % 2 == 0; }
static inline int channels_at(int level) { return 64 << level; }
static inline int side_at(int level, int canvas_side) { return canvas_side / (4 << level); }

#endif
