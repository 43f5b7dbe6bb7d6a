"""The built-in model as two ONNX graphs: what its tower sees, and its language model with a key-value cache.

The weights stay in float16, as they are shipped, and are computed with in float32, so nothing is lost. The adapters are
a second set of weights: `gains` says how much of the control, of stage 1, and of what stage 2 adds to it.
"""
import json
from pathlib import Path
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

TINY = Path(__file__).parents[1]/"povid_nb"/"tiny"
GAINS = {"base": (0, 0, 0), "control": (1, 0, 0), "stage1": (0, 1, 0), "stage2": (0, 1, 1)}


class Graph:
    "An ONNX graph that grows call by call: `g.MatMul(a, b)` adds a node and returns the name of its output"
    def __init__(self): self.nodes, self.weights, self.known = [], [], {}

    def __getattr__(self, op): return lambda *inputs, **attributes: self.node(op, inputs, attributes)

    def node(self, op, inputs, attributes):
        outputs = attributes.pop("outputs", None) or [f"{op.lower()}_{len(self.nodes)}"]
        names = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        self.nodes.append(helper.make_node(op, names, outputs, **attributes))
        return outputs[0] if len(outputs) == 1 else outputs

    def constant(self, value):
        "A weight in float16, cast back where it is used; numbers and indices as they are"
        value = np.asarray(value)
        half = value.dtype == np.float16 and value.size > 1
        if value.dtype in (np.float16, np.float64) and not half: value = value.astype(np.float32)
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self.known:
            name = f"weight_{len(self.weights)}"
            self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
            self.known[key] = self.Cast(name, to=TensorProto.FLOAT) if half else name
        return self.known[key]

    def model(self, inputs, outputs):
        graph = helper.make_graph(self.nodes, "povid", [helper.make_tensor_value_info(*x) for x in inputs],
                                  [helper.make_tensor_value_info(*x) for x in outputs], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.checker.check_model(model)
        return model


def ints(*values): return np.array(values, dtype=np.int64)


def split_heads(g, x, heads, width):
    "[n, heads * width] to [heads, n, width]"
    return g.Transpose(g.Reshape(x, ints(-1, heads, width)), perm=[1, 0, 2])


def join_heads(g, x, size): return g.Reshape(g.Transpose(x, perm=[1, 0, 2]), ints(-1, size))


def tower(weights, config):
    "pixels [1, 3, 96, 96] to features [36, 192]"
    g, vision = Graph(), config["vision_config"]
    size, heads, eps = vision["hidden_size"], vision["num_attention_heads"], vision["layer_norm_eps"]
    own = lambda name: weights[f"vision_tower.{name}"]
    norm = lambda x, name: g.LayerNormalization(x, own(f"{name}.weight"), own(f"{name}.bias"), axis=-1, epsilon=eps)
    linear = lambda x, name: g.Add(g.MatMul(x, own(f"{name}.weight").T), own(f"{name}.bias"))
    patch = vision["patch_size"]
    patches = g.Conv("pixels", own("embeddings.patch_embedding.weight"), strides=[patch, patch])
    patches = g.Transpose(g.Reshape(patches, ints(size, -1)), perm=[1, 0])
    x = g.Concat(g.Reshape(own("embeddings.class_embedding"), ints(1, size)), patches, axis=0)
    x = norm(g.Add(x, own("embeddings.position_embedding.weight")), "pre_layrnorm")
    for i in range(vision["num_hidden_layers"] + 1 + config["vision_feature_layer"]):      # the last one is not used
        layer, h = f"encoder.layers.{i}", norm(x, f"encoder.layers.{i}.layer_norm1")
        q, k, v = (split_heads(g, linear(h, f"{layer}.self_attn.{part}_proj"), heads, size // heads) for part in "qkv")
        scores = g.Mul(g.MatMul(q, g.Transpose(k, perm=[0, 2, 1])), np.float32((size // heads) ** -.5))
        mixed = join_heads(g, g.MatMul(g.Softmax(scores, axis=-1), v), size)
        x = g.Add(x, linear(mixed, f"{layer}.self_attn.out_proj"))
        h = linear(norm(x, f"{layer}.layer_norm2"), f"{layer}.mlp.fc1")
        h = g.Mul(h, g.Sigmoid(g.Mul(h, np.float32(1.702))))
        x = g.Add(x, linear(h, f"{layer}.mlp.fc2"))
    own = lambda name: weights[f"multi_modal_projector.{name}"]
    h = linear(g.Slice(x, ints(1), ints(1 << 40), ints(0)), "linear_1")
    h = g.Mul(g.Mul(h, np.float32(.5)), g.Add(g.Erf(g.Mul(h, np.float32(2 ** -.5))), np.float32(1)))
    g.Identity(linear(h, "linear_2"), outputs=["features"])
    side, text = vision["image_size"], config["text_config"]["hidden_size"]
    return g.model([("pixels", TensorProto.FLOAT, [1, 3, side, side])],
                   [("features", TensorProto.FLOAT, [(side // patch) ** 2, text])])


def adapters(folder=TINY/"adapters"):
    "{path of a linear layer: (A [rank, in], B [out, rank])}: the control, stage 1, and what stage 2 adds, stacked"
    read = lambda name: load_file(folder/name/"adapter_model.safetensors")
    control, first, second = map(read, ("control", "stage1", "stage2"))
    found = {}
    for key in (key for key in first if "lora_A" in key):
        path, other, rank = key.split("base_model.model.model.")[1].split(".lora_A")[0], key.replace("lora_A", "lora_B"), len(first[key])
        if not np.array_equal(second[key][:rank], first[key]) or not np.allclose(second[other][:, :rank], 2 * first[other], atol=1e-6):
            raise ValueError("stage 2 no longer contains stage 1: stack them (`between=\"stack\"`)")
        found[path] = (np.concatenate([control[key], first[key], second[key][rank:]]),
                       np.concatenate([2 * control[other], 2 * first[other], second[other][:, rank:]], 1))
    return found


def language(weights, config, deltas):
    "ids [n], features, the cache [2 * layers, heads, past, width] and gains [3] to logits, the longer cache, and attention"
    g, text = Graph(), config["text_config"]
    size, heads, width, layers = (text[k] for k in ("hidden_size", "num_attention_heads", "head_dim", "num_hidden_layers"))
    own = lambda name: weights[f"language_model.{name}"]
    rank = len(next(iter(deltas.values()))[0]) // 3
    gains = g.Gather("gains", np.repeat(np.arange(3), rank), axis=0)

    def linear(x, path):
        a, b = deltas[f"language_model.{path}"]
        return g.Add(g.MatMul(x, own(f"model.{path}.weight").T), g.MatMul(g.Mul(g.MatMul(x, a.T), gains), b.T))

    def norm(x, name):
        mean = g.ReduceMean(g.Mul(x, x), ints(-1), keepdims=1)
        return g.Mul(g.Div(x, g.Sqrt(g.Add(mean, np.float32(text["rms_norm_eps"])))), own(f"{name}.weight"))

    # Pictures take the places of their tokens, in order
    is_image = g.Equal("ids", ints(config["image_token_index"]))
    place = g.Max(g.Sub(g.CumSum(g.Cast(is_image, to=TensorProto.INT64), np.int64(0)), ints(1)), ints(0))
    x = g.Where(g.Unsqueeze(is_image, ints(1)), g.Gather("features", place, axis=0),
                g.Gather(own("model.embed_tokens.weight"), "ids", axis=0))
    n, past = g.Shape("ids"), g.Shape("past", start=2, end=3)
    total = g.Add(n, past)
    scalar = lambda value: g.Squeeze(value, ints(0))
    positions = g.Range(scalar(past), scalar(total), np.int64(0) + 1)
    frequencies = (text["rope_parameters"]["rope_theta"] ** -(np.arange(0, width, 2, dtype=np.float32) / width)).astype(np.float32)
    angles = g.Mul(g.Unsqueeze(g.Cast(positions, to=TensorProto.FLOAT), ints(1)), np.concatenate([frequencies] * 2)[None])
    cos, sin = g.Cos(angles), g.Sin(angles)
    keys_at = g.Range(np.int64(0), scalar(total), np.int64(1))
    later = g.Greater(g.Unsqueeze(keys_at, ints(0)), g.Unsqueeze(positions, ints(1)))
    mask = g.Where(later, np.float32(-1e9), np.float32(0))

    def turn(x):
        "Rotary positions"
        first, second = (g.Slice(x, ints(a), ints(b), ints(2)) for a, b in ((0, width // 2), (width // 2, width)))
        return g.Add(g.Mul(x, cos), g.Mul(g.Concat(g.Neg(second), first, axis=2), sin))

    before = g.Split("past", num_outputs=2 * layers, axis=0, outputs=[f"past_{i}" for i in range(2 * layers)])
    cache, seen = [], []
    for i in range(layers):
        h = norm(x, f"model.layers.{i}.input_layernorm")
        q, k, v = (split_heads(g, linear(h, f"layers.{i}.self_attn.{part}_proj"), heads, width) for part in "qkv")
        k = g.Concat(g.Squeeze(before[2 * i], ints(0)), turn(k), axis=1)
        v = g.Concat(g.Squeeze(before[2 * i + 1], ints(0)), v, axis=1)
        cache += [g.Unsqueeze(k, ints(0)), g.Unsqueeze(v, ints(0))]
        scores = g.Mul(g.MatMul(turn(q), g.Transpose(k, perm=[0, 2, 1])), np.float32(width ** -.5))
        shares = g.Softmax(g.Add(scores, mask), axis=-1)
        seen.append(g.Unsqueeze(g.Slice(shares, ints(-1), ints(1 << 40), ints(1)), ints(0)))
        x = g.Add(x, linear(join_heads(g, g.MatMul(shares, v), size), f"layers.{i}.self_attn.o_proj"))
        h = norm(x, f"model.layers.{i}.post_attention_layernorm")
        gate, up = (linear(h, f"layers.{i}.mlp.{part}_proj") for part in ("gate", "up"))
        x = g.Add(x, linear(g.Mul(g.Mul(gate, g.Sigmoid(gate)), up), f"layers.{i}.mlp.down_proj"))
    g.MatMul(norm(x, "model.norm"), own("lm_head.weight").T, outputs=["logits"])
    g.Concat(*cache, axis=0, outputs=["present"])
    g.Reshape(g.Concat(*seen, axis=0), ints(layers, heads, -1), outputs=["attention"])
    floats = TensorProto.FLOAT
    return g.model([("ids", TensorProto.INT64, ["n"]), ("features", floats, ["patches", size]),
                    ("past", floats, [2 * layers, heads, "past", width]), ("gains", floats, [3])],
                   [("logits", floats, ["n", text["vocab_size"]]), ("present", floats, [2 * layers, heads, "total", width]),
                    ("attention", floats, [layers, heads, "total"])])


def export(folder):
    "Write see.onnx and speak.onnx; returns their paths"
    config, weights = json.loads((TINY/"config.json").read_text()), load_file(TINY/"model.safetensors")
    folder.mkdir(parents=True, exist_ok=True)
    graphs = {"see": tower(weights, config), "speak": language(weights, config, adapters())}
    for name, model in graphs.items(): onnx.save(model, folder/f"{name}.onnx")
    return [folder/f"{name}.onnx" for name in graphs]
