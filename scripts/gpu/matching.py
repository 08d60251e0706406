"""The PyTorch side of match.py: reads a recipe as JSON from stdin, prints losses, norms and errors of each step as JSON.

Each precision trains for itself: f64 (the judge), f32, and bf16 (weights of matrices, activations and their gradients bf16, sums of
gradients over micro-batches and master weights f32), all by AdamW from the same weights on the same samples."""
import array
import json
import math
import struct
import sys

import torch
import torch.nn.functional as functional

DTYPES = {"f64": torch.float64, "f32": torch.float32, "bf16": torch.bfloat16}
NAMES = {"F32": torch.float32}  # safetensors' names of types
NORM_EPSILON = 1e-5


def read_safetensors(path):
    """Name -> f32 tensor."""
    with open(path, "rb") as file:
        data = file.read()
    length = struct.unpack("<Q", data[:8])[0]
    body, tensors = bytearray(data[8 + length:]), {}
    for name, entry in json.loads(data[8:8 + length]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            flat = torch.frombuffer(body, dtype=NAMES[entry["dtype"]], count=(end - begin) // 4, offset=begin)
            tensors[name.removeprefix("transformer.")] = flat.reshape(entry["shape"]).clone()
    return tensors


def read_samples(path, context):
    """[sample, context + 1]; neighbours share a token."""
    tokens = array.array("H")
    with open(path, "rb") as file:
        tokens.frombytes(file.read())
    count = (len(tokens) - 1) // context
    return torch.tensor([tokens[i * context:(i + 1) * context + 1].tolist() for i in range(count)])


def token_losses(weights, model, samples):
    """Of each token, in the type that softmax is computed in. Names are those of Hugging Face's GPT-2; matrices are [in, out]."""
    heads, hidden = model["heads"], model["hidden"]
    ids, targets = samples[:, :-1], samples[:, 1:]
    batch, length = ids.shape

    def norm(x, name):
        return functional.layer_norm(x, (hidden,), weights[f"{name}.weight"], weights[f"{name}.bias"], NORM_EPSILON)

    def linear(x, name):
        rows = torch.addmm(weights[f"{name}.bias"], x.reshape(batch * length, -1), weights[f"{name}.weight"])
        return rows.view(batch, length, -1)

    x = functional.embedding(ids, weights["wte.weight"]) + weights["wpe.weight"][:length]
    for layer in range(model["layers"]):
        at = f"h.{layer}."
        q, k, v = (t.view(batch, length, heads, hidden // heads).transpose(1, 2)
                   for t in linear(norm(x, at + "ln_1"), at + "attn.c_attn").split(hidden, dim=2))
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + linear(attended.transpose(1, 2).reshape(batch, length, hidden), at + "attn.c_proj")
        wide = functional.gelu(linear(norm(x, at + "ln_2"), at + "mlp.c_fc"), approximate="tanh")
        x = x + linear(wide, at + "mlp.c_proj")
    logits = functional.linear(norm(x, "ln_f"), weights["wte.weight"])
    wide_type = torch.float64 if logits.dtype == torch.float64 else torch.float32
    return functional.cross_entropy(logits.reshape(-1, logits.size(-1)).to(wide_type), targets.reshape(-1), reduction="none")


class Training:
    """One precision's trajectory."""

    def __init__(self, recipe, tensors, dtype):
        self.recipe, self.dtype = recipe, dtype
        master_type = torch.float64 if dtype == torch.float64 else torch.float32
        self.masters = {name: tensor.to(recipe["device"], master_type, copy=True) for name, tensor in tensors.items()}
        self.moments = {name: (torch.zeros_like(tensor), torch.zeros_like(tensor)) for name, tensor in self.masters.items()}

    def gradients(self, samples):
        """(losses of all tokens, mean gradient by name)"""
        working = {name: tensor.to(self.dtype, copy=True).requires_grad_() for name, tensor in self.masters.items()}
        sums = {name: torch.zeros_like(tensor) for name, tensor in self.masters.items()}
        losses, size = [], self.recipe["micro_batch"]
        for begin in range(0, len(samples), size):
            found = token_losses(working, self.recipe["model"], samples[begin:begin + size])
            for (name, _), gradient in zip(working.items(), torch.autograd.grad(found.mean(), list(working.values()))):
                sums[name] += gradient
            losses.append(found.detach().double())
        count = len(samples) // size
        return torch.cat(losses), {name: tensor / count for name, tensor in sums.items()}

    def update(self, gradients, norm, step):
        rule = self.recipe["update"]
        factor = min(1.0, rule["clip"] / norm)
        for name, weight in self.masters.items():
            first, second = self.moments[name]
            gradient = gradients[name] * factor
            first.mul_(rule["beta1"]).add_(gradient, alpha=1 - rule["beta1"])
            second.mul_(rule["beta2"]).addcmul_(gradient, gradient, value=1 - rule["beta2"])
            scaled = first / (1 - rule["beta1"]**step) / ((second / (1 - rule["beta2"]**step)).sqrt() + rule["epsilon"])
            if weight.dim() == 2:
                scaled = scaled + rule["weight_decay"] * weight
            weight.sub_(scaled, alpha=rule["lr"])


def norm_of(gradients):
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in gradients.values()))


def main():
    recipe = json.load(sys.stdin)
    torch.backends.cuda.matmul.allow_tf32 = False
    # Plain: matrices of probabilities, no fused kernels.
    torch.backends.cuda.enable_flash_sdp(False)
    torch.backends.cuda.enable_mem_efficient_sdp(False)
    torch.backends.cuda.enable_cudnn_sdp(False)
    tensors = read_safetensors(recipe["weights"])
    samples = read_samples(recipe["tokens"], recipe["model"]["context"]).to(recipe["device"])
    precisions = ["f64", *recipe["precisions"]]
    trainings = {name: Training(recipe, tensors, DTYPES[name]) for name in precisions}
    result = {name: [] for name in precisions}
    for step in range(1, recipe["steps"] + 1):
        judged = None
        for name, training in trainings.items():
            losses, gradients = training.gradients(samples)
            norm = norm_of(gradients)
            if judged is None:
                judged = (losses, gradients)
            result[name].append({
                "loss": float(losses.mean()), "norm": norm, "loss_rms": float((losses - judged[0]).square().mean().sqrt()),
                "gradient_error": norm_of({key: tensor.double() - judged[1][key] for key, tensor in gradients.items()})})
            training.update(gradients, norm, step)
            print(f"{name} step {step}: {result[name][-1]}", file=sys.stderr, flush=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
