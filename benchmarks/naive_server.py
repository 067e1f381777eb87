"""The naive server that ours is compared with: FastAPI around PyTorch, as tutorials show it.

One process loads the network at import and does everything in the handler. It has no batches,
threads or limits. It uses nothing of this project but the trained weights and the colours.
"""

if __name__ == "__main__":  # before the imports that fail without them
    from model.extras import require_packages

    require_packages("torch", "torchvision")

import argparse
import io

import torch
import uvicorn
from fastapi import FastAPI, Response, UploadFile
from PIL import Image
from torchvision import transforms

from benchmarks.notebook import load_notebook_network
from model.classes import PALETTE
from model.weights import IMAGENET_MEAN, IMAGENET_STD, SHIPPED_WEIGHTS, read_weights

MEAN_COLOUR = tuple(round(255 * value) for value in IMAGENET_MEAN)


network = load_notebook_network(read_weights(SHIPPED_WEIGHTS))
normalise = transforms.Compose(
    [transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
)
app = FastAPI()


@app.post("/predict")
async def predict(file: UploadFile) -> Response:
    image = Image.open(io.BytesIO(await file.read())).convert("RGB")
    width, height = image.size
    padded = Image.new("RGB", (-(-width // 32) * 32, -(-height // 32) * 32), MEAN_COLOUR)
    padded.paste(image)
    with torch.no_grad():
        logits = network(normalise(padded).unsqueeze(0))
    mask = logits.argmax(dim=1)[0, :height, :width].byte().numpy()
    answer = Image.fromarray(mask)
    answer.putpalette(PALETTE.tobytes())
    png = io.BytesIO()
    answer.save(png, format="PNG")
    return Response(png.getvalue(), media_type="image/png")


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve POST /predict, naively.")
    parser.add_argument("--port", type=int, default=8001)
    uvicorn.run(app, port=parser.parse_args().port)


if __name__ == "__main__":
    main()
