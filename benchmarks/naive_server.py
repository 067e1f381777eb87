"""The server to compare with: FastAPI around PyTorch, in the way that tutorials show it.

One process, the network loaded at import, everything in the handler. It knows nothing of batches,
threads, limits or overload, and takes from this project only the trained numbers and colours.
"""

import argparse
import io

import torch
import uvicorn
from fastapi import FastAPI, Response, UploadFile
from PIL import Image
from torch import nn
from torchvision import transforms
from torchvision.models import resnet18

from model.classes import PALETTE
from model.weights import IMAGENET_MEAN, IMAGENET_STD, SHIPPED_WEIGHTS, read_weights

NUM_CLASSES = 21
MEAN_COLOUR = tuple(round(255 * value) for value in IMAGENET_MEAN)


def load_network() -> nn.Sequential:
    """The teaching notebook's network with the shipped weights, ready to predict."""
    children = dict(list(resnet18().named_children())[:-2])
    network = nn.Sequential(*children.values())
    network.add_module("final_conv", nn.Conv2d(512, NUM_CLASSES, kernel_size=1))
    network.add_module(
        "transpose_conv",
        nn.ConvTranspose2d(NUM_CLASSES, NUM_CLASSES, kernel_size=64, padding=16, stride=32),
    )
    positions = {f"backbone.{name}.": f"{position}." for position, name in enumerate(children)}
    state = {}
    for name, array in read_weights(SHIPPED_WEIGHTS).tensors.items():
        for child, position in positions.items():
            name = name.replace(child, position)
        state[name] = torch.tensor(array)
    network.load_state_dict(state)
    return network.eval()


network = load_network()
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
