#include "winograd.h"

/* The matrix G of the kernel's transform. */
static const double KERNEL_TRANSFORM[INPUT_PATCH][3] = {{1. / 4, 0, 0},
                                                        {-1. / 6, -1. / 6, -1. / 6},
                                                        {-1. / 6, 1. / 6, -1. / 6},
                                                        {1. / 24, 1. / 12, 1. / 6},
                                                        {1. / 24, -1. / 12, 1. / 6},
                                                        {0, 0, 1}};

/* G g G^T of each kernel g. */
void winograd_pack(float *to, const float *kernel, int out, int in, int in_padded, int groups)
{
    const double (*matrix)[3] = KERNEL_TRANSFORM;
    for (int g = 0; g < groups; g++)
        for (int i = 0; i < in; i++) {
            double taps[9][GROUP_CHANNELS] = {{0}}, halfway[INPUT_PATCH][3][GROUP_CHANNELS];
            for (int channel = 0; channel < MIN(GROUP_CHANNELS, out - g * GROUP_CHANNELS); channel++)
                for (int tap = 0; tap < 9; tap++)
                    taps[tap][channel] = kernel[((long)(g * GROUP_CHANNELS + channel) * in + i) * 9 + tap];
            for (int y = 0; y < INPUT_PATCH; y++)
                for (int x = 0; x < 3; x++)
                    for (int channel = 0; channel < GROUP_CHANNELS; channel++)
                        halfway[y][x][channel] = matrix[y][0] * taps[x][channel] +
                                                 matrix[y][1] * taps[3 + x][channel] +
                                                 matrix[y][2] * taps[6 + x][channel];
            for (int y = 0; y < INPUT_PATCH; y++)
                for (int x = 0; x < INPUT_PATCH; x++) {
                    float *weights =
                        to + (((long)(y * INPUT_PATCH + x) * groups + g) * in_padded + i) * GROUP_CHANNELS;
                    for (int channel = 0; channel < GROUP_CHANNELS; channel++)
                        weights[channel] = (float)(halfway[y][0][channel] * matrix[x][0] +
                                                   halfway[y][1][channel] * matrix[x][1] +
                                                   halfway[y][2][channel] * matrix[x][2]);
                }
        }
}
