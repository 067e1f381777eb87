"""The kernels of `triton_head`: coarse logits to one byte for each pixel.

The full logits exist only in registers, for some pixels at a time. Names and geometry are those of
`tiles`: a pixel is computed from the four coarse cells around its tile, the corners. `coarse` is
(images, rows, columns, classes), `packed` (side * side, 4, padded, padded), where `padded` is the
number of classes rounded up to a power of two. Knows nothing of PyTorch.
"""

import triton
import triton.language as tl

# Triton would compile a kernel once more for a size that is 1 or a multiple of 16, and where a mask
# begins at an address that is not a multiple of 16: it must not compile while it serves.
ANY_ADDRESS = ("masks", "mask", "coarse")


@triton.jit
def choose_byte(scores, classes: tl.constexpr, padded: tl.constexpr, confidence: tl.constexpr):
    """Turn logits (P, padded) into bytes (P,): the first largest class, or its softmax."""
    scores = tl.where(tl.arange(0, padded)[None, :] < classes, scores, float("-inf"))
    if confidence:
        total = tl.sum(tl.exp(scores - tl.max(scores, axis=1)[:, None]), axis=1)
        chosen = tl.floor(255 / total + 0.5).to(tl.uint8)
    else:
        chosen = tl.argmax(scores, axis=1, tie_break_left=True).to(tl.uint8)
    return chosen


@triton.jit
def load_cells(
    coarse, image, row, column, rows, columns, classes: tl.constexpr, padded: tl.constexpr
):
    """Load the logits of coarse cells (P,), as (P, padded). They are zero outside the canvas."""
    channel = tl.arange(0, padded)
    is_inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    first = ((image * rows + row) * columns + column) * classes
    return tl.load(
        coarse + first[:, None] + channel[None, :],
        mask=is_inside[:, None] & (channel < classes)[None, :],
        other=0.0,
    )


@triton.jit(
    do_not_specialize=("images", "rows", "columns"), do_not_specialize_on_alignment=ANY_ADDRESS
)
def segment_dense(
    coarse, packed, bias, masks, images, rows, columns,
    side: tl.constexpr, classes: tl.constexpr, padded: tl.constexpr,
    tiles: tl.constexpr, pixels: tl.constexpr,
    confidence: tl.constexpr,
):  # fmt: skip
    """Fill whole canvases, for any kernel: the pixels (y, x), (y, x + 1), ... of `tiles` tiles.

    These pixels have the same place in each tile and so the same part of the kernel. They are one
    product (tiles, 4 padded) x (4 padded, pixels * padded). Grid: tiles, a tile's rows and columns.
    """
    tile = tl.program_id(0) * tiles + tl.arange(0, tiles)
    down, right = tl.program_id(1), tl.program_id(2) * pixels
    per_image = (rows + 1) * (columns + 1)
    image, within = tile // per_image, tile % per_image
    # Tiles after the last image get a row above the canvas.
    tile_row = tl.where(image < images, within // (columns + 1), -1)
    tile_column = within % (columns + 1)
    channel, target = tl.arange(0, padded), tl.arange(0, pixels * padded)
    # The start of the kernel's part for each target, which is a pixel and its class.
    place = down * side + right + target // padded
    scores = tl.zeros((tiles, pixels * padded), tl.float32)
    for corner in tl.static_range(4):
        row, column = tile_row - 1 + corner // 2, tile_column - 1 + corner % 2
        cells = load_cells(coarse, image, row, column, rows, columns, classes, padded)
        kernel = ((place * 4 + corner) * padded * padded + target % padded)[None, :]
        part = tl.load(packed + kernel + (channel * padded)[:, None])
        # Of float32: three products of tensor cores, whose sum has float32's precision.
        scores = tl.dot(cells.to(part.dtype), part, scores, input_precision="tf32x3")
    scores = tl.reshape(scores, (tiles * pixels, padded)) + tl.load(bias + channel)[None, :]
    chosen = tl.reshape(choose_byte(scores, classes, padded, confidence), (tiles, pixels))
    # The first tile begins half a tile above and left of the canvas.
    y = (tile_row * side + down - side // 2)[:, None]
    x = (tile_column * side + right - side // 2)[:, None] + tl.arange(0, pixels)[None, :]
    height, width = rows * side, columns * side
    is_there = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    tl.store(masks + (image[:, None] * height + y) * width + x, chosen, mask=is_there)


@triton.jit
def compute_logits(
    coarse, packed, bias, image, y, x, rows, columns,
    side: tl.constexpr, classes: tl.constexpr, padded: tl.constexpr, is_bilinear: tl.constexpr,
):  # fmt: skip
    """Return the logits (P, padded) of the canvas pixels (y, x), each (P,), by their definition."""
    channel = tl.arange(0, padded)
    tile_row, down = (y + side // 2) // side, (y + side // 2) % side
    tile_column, right = (x + side // 2) // side, (x + side // 2) % side
    scores = tl.zeros((y.shape[0], padded), tl.float32)
    for corner in tl.static_range(4):
        row, column = tile_row - 1 + corner // 2, tile_column - 1 + corner % 2
        is_inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
        cells = coarse + ((image * rows + row) * columns + column) * classes
        if is_bilinear:
            vertical, horizontal = (down + 0.5) / side, (right + 0.5) / side
            weight = (vertical if corner // 2 else 1 - vertical) * (
                horizontal if corner % 2 else 1 - horizontal
            )
            values = load_cells(coarse, image, row, column, rows, columns, classes, padded)
            scores += weight[:, None] * values.to(tl.float32)
        else:
            kernel = packed + ((down * side + right) * 4 + corner) * padded * padded
            for source in range(classes):
                value = tl.load(cells + source, mask=is_inside, other=0.0).to(tl.float32)
                part = tl.load(kernel[:, None] + source * padded + channel[None, :])
                scores += value[:, None] * part.to(tl.float32)
    return scores + tl.load(bias + channel)[None, :]


@triton.jit(do_not_specialize=("rows", "columns"), do_not_specialize_on_alignment=ANY_ADDRESS)
def segment_bilinear(
    coarse, bias, masks, rows, columns,
    side: tl.constexpr, classes: tl.constexpr, padded: tl.constexpr,
    pixels: tl.constexpr, confidence: tl.constexpr,
):  # fmt: skip
    """Fill whole canvases, for the bilinear kernel. Grid: runs of pixels, images."""
    pixel, image = tl.program_id(0) * pixels + tl.arange(0, pixels), tl.program_id(1)
    height, width = rows * side, columns * side
    y, x = pixel // width, pixel % width
    scores = compute_logits(
        coarse, bias, bias, image, y, x, rows, columns, side, classes, padded, True
    )
    chosen = choose_byte(scores, classes, padded, confidence)
    tl.store(masks + image * height * width + pixel, chosen, mask=pixel < height * width)


@triton.jit
def find_neighbours(position, source, output):
    """Return both source pixels of output pixels, and the second's share, as `tiles.Neighbours`."""
    # In 64 bits and numpy's order, or rounding would sometimes choose other source pixels.
    exact = tl.maximum((position.to(tl.float64) + 0.5) * source / output - 0.5, 0.0)
    first = tl.minimum(exact.to(tl.int32), source - 1)
    return first, tl.minimum(first + 1, source - 1), (exact - first).to(tl.float32)


@triton.jit
def find_range(start, stop, source, output):
    """Return a range with all output pixels whose first source pixel is in start ... stop - 1."""
    scale = output.to(tl.float32) / source.to(tl.float32)
    low = ((start + 0.5) * scale - 0.5).to(tl.int32) - 1
    high = ((stop + 0.5) * scale - 0.5).to(tl.int32) + 2
    # Output pixels before the first source pixel and after the last one belong to these.
    low = tl.where(start == 0, 0, tl.maximum(low, 0))
    return low, tl.where(stop >= source, output, tl.minimum(high, output))


@triton.jit
def weigh(position, candidate, source, output):
    """Return each source pixel's weight in each output pixel, (outputs, sources), and the first."""
    first, second, share = find_neighbours(position, source, output)
    weights = tl.where(first[:, None] == candidate[None, :], 1 - share[:, None], 0.0)
    weights += tl.where(second[:, None] == candidate[None, :], share[:, None], 0.0)
    return weights, first


@triton.jit(
    do_not_specialize=(
        "rows", "columns", "content_height", "content_width", "output_height", "output_width",
    ),
    do_not_specialize_on_alignment=ANY_ADDRESS,
)  # fmt: skip
def segment_scaled(
    coarse, packed, bias, mask, rows, columns,
    content_height, content_width, output_height, output_width,
    side: tl.constexpr, classes: tl.constexpr, padded: tl.constexpr,
    window_height: tl.constexpr, window_width: tl.constexpr, block: tl.constexpr,
    confidence: tl.constexpr, is_bilinear: tl.constexpr,
):  # fmt: skip
    """Fill one image's mask, whose size differs from its content. Grid: windows down and right.

    The logits of a window are computed once. They give all output pixels whose first source pixel
    is in the window, except in its last row or column, with which the next window begins. Output
    pixels are computed in blocks: weights (block * block, window) x logits (window, padded).
    """
    top, left = tl.program_id(0) * (window_height - 1), tl.program_id(1) * (window_width - 1)
    within = tl.arange(0, window_height * window_width)
    source_y, source_x = top + within // window_width, left + within % window_width
    logits = compute_logits(
        coarse, packed, bias, 0, source_y, source_x, rows, columns,
        side, classes, padded, is_bilinear,
    )  # fmt: skip
    bottom, end = top + window_height - 1, left + window_width - 1
    top_output, bottom_output = find_range(top, bottom, content_height, output_height)
    left_output, end_output = find_range(left, end, content_width, output_width)
    pixel = tl.arange(0, block * block)
    for first_y in range(top_output, bottom_output, block):
        for first_x in range(left_output, end_output, block):
            y, x = first_y + pixel // block, first_x + pixel % block
            down, row = weigh(y, source_y, content_height, output_height)
            right, column = weigh(x, source_x, content_width, output_width)
            # In TensorFloat-32, the weights would no longer add up to 1.
            scores = tl.dot(down * right, logits, input_precision="tf32x3")
            chosen = choose_byte(scores, classes, padded, confidence)
            is_here = (row >= top) & (row < bottom) & (column >= left) & (column < end)
            is_here = is_here & (y < output_height) & (x < output_width)
            tl.store(mask + y * output_width + x, chosen, mask=is_here)
