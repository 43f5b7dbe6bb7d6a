"""The built-in model as two ONNX graphs: what its tower sees, and its language model with a key-value cache.

The weights lie beside each graph in float16, as they are shipped, and are widened to float32 by whoever loads them, so
nothing is lost. The adapters are a second set of weights: `gains` says how much of the control, of stage 1, and of
what stage 2 adds to it. A runtime spends most of its start on the nodes of a graph, so there are few: whole operators
of opset 23 (attention, rotary positions, RMS norm), one product for weights that read the same input, and a product's
sum with what it is added to in the same node.
"""
import json
from pathlib import Path
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

TINY = Path(__file__).parents[1]/"povid_nb"/"tiny"
GAINS = {"base": (0, 0, 0), "control": (1, 0, 0), "stage1": (0, 1, 0), "stage2": (0, 1, 1)}
SMALL = 1000      # numbers: a constant below this lies in the graph itself


class Graph:
    "An ONNX graph that grows call by call: `g.MatMul(a, b)` adds a node and returns the name of its output"
    def __init__(self, name): self.name, self.nodes, self.weights, self.known, self.halves = name, [], [], {}, []

    def __getattr__(self, op): return lambda *inputs, **attributes: self.node(op, inputs, attributes)

    def node(self, op, inputs, attributes):
        n = attributes.pop("n", 1)
        outputs = attributes.pop("outputs", None) or [f"{op.lower()}_{len(self.nodes)}_{i}" for i in range(n)]
        names = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        self.nodes.append(helper.make_node(op, names, outputs, **attributes))
        return outputs[0] if len(outputs) == 1 else outputs

    def constant(self, value):
        "A number or index as it is; a large weight in the file beside, with its place there"
        value = np.ascontiguousarray(value)
        if value.dtype in (np.float16, np.float64) and value.size < SMALL: value = value.astype(np.float32)
        key = (value.dtype.str, value.shape, value.tobytes())
        if key in self.known: return self.known[key]
        name = self.known[key] = f"weight_{len(self.weights)}"
        if value.dtype == np.float16:
            tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=value.shape,
                                 data_location=TensorProto.EXTERNAL)
            offset = 4 * sum(half.size for half in self.halves)
            for field in (("location", f"{self.name}.bin"), ("offset", offset), ("length", 4 * value.size)):
                tensor.external_data.add(key=field[0], value=str(field[1]))
            self.halves.append(value)
        else: tensor = numpy_helper.from_array(value, name)
        self.weights.append(tensor)
        return name

    def save(self, folder, inputs, outputs):
        "Write the graph, and its large weights as one file of float16"
        graph = helper.make_graph(self.nodes, "povid", [helper.make_tensor_value_info(*x) for x in inputs],
                                  [helper.make_tensor_value_info(*x) for x in outputs], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
        (folder/f"{self.name}.onnx").write_bytes(model.SerializeToString())
        (folder/f"{self.name}.bin").write_bytes(b"".join(half.tobytes() for half in self.halves))


def ints(*values): return np.array(values, dtype=np.int64)


def tower(folder, weights, config):
    "pixels [1, 3, 96, 96] to features [36, 192]"
    g, vision = Graph("see"), config["vision_config"]
    size, heads, eps = vision["hidden_size"], vision["num_attention_heads"], vision["layer_norm_eps"]
    own = lambda name: weights[f"vision_tower.{name}"]
    norm = lambda x, name: g.LayerNormalization(x, own(f"{name}.weight"), own(f"{name}.bias"), axis=-1, epsilon=eps)
    def linear(x, *names):
        "One product for linear layers that read the same, with their biases"
        weight, bias = (np.concatenate([own(f"{name}.{part}") for name in names]) for part in ("weight", "bias"))
        return g.Gemm(x, weight.T, bias)
    patch = vision["patch_size"]
    patches = g.Conv("pixels", own("embeddings.patch_embedding.weight"), strides=[patch, patch])
    patches = g.Transpose(g.Reshape(patches, ints(size, -1)), perm=[1, 0])
    x = g.Concat(own("embeddings.class_embedding").reshape(1, size), patches, axis=0)
    x = norm(g.Add(x, own("embeddings.position_embedding.weight")), "pre_layrnorm")
    for i in range(vision["num_hidden_layers"] + 1 + config["vision_feature_layer"]):      # the last one is not used
        layer, h = f"encoder.layers.{i}", norm(x, f"encoder.layers.{i}.layer_norm1")
        h = g.Unsqueeze(linear(h, *(f"{layer}.self_attn.{part}_proj" for part in "qkv")), ints(0))
        q, k, v = g.Split(h, n=3, num_outputs=3, axis=-1)
        h = g.Squeeze(g.Attention(q, k, v, q_num_heads=heads, kv_num_heads=heads), ints(0))
        x = g.Add(x, linear(h, f"{layer}.self_attn.out_proj"))
        h = linear(norm(x, f"{layer}.layer_norm2"), f"{layer}.mlp.fc1")
        h = g.Mul(h, g.Sigmoid(g.Mul(h, np.float32(1.702))))
        x = g.Add(x, linear(h, f"{layer}.mlp.fc2"))
    own = lambda name: weights[f"multi_modal_projector.{name}"]
    h = g.Gelu(linear(g.Slice(x, ints(1), ints(1 << 40), ints(0)), "linear_1"))
    g.Identity(linear(h, "linear_2"), outputs=["features"])
    side, text = vision["image_size"], config["text_config"]["hidden_size"]
    g.save(folder, [("pixels", TensorProto.FLOAT, [1, 3, side, side])],
           [("features", TensorProto.FLOAT, [(side // patch) ** 2, text])])


def adapters(folder=TINY/"adapters"):
    "{path of a linear layer: (A [rank, in], B [out, rank])}: the control, stage 1, and what stage 2 adds, stacked"
    read = lambda name: load_file(folder/name/"adapter_model.safetensors")
    control, first, second = map(read, ("control", "stage1", "stage2"))
    found = {}
    for key in (key for key in first if "lora_A" in key):
        path, other, rank = key.split("base_model.model.model.")[1].split(".lora_A")[0], key.replace("lora_A",
            "lora_B"), len(first[key])
        if not np.array_equal(second[key][:rank], first[key]) or not np.allclose(second[other][:, :rank],
                2 * first[other], atol=1e-6):
            raise ValueError("stage 2 no longer contains stage 1: stack them (`between=\"stack\"`)")
        found[path] = (np.concatenate([control[key], first[key], second[key][rank:]]),
                       np.concatenate([2 * control[other], 2 * first[other], second[other][:, rank:]], 1))
    return found


def language(folder, weights, config, deltas):
    """ids [n], features, each layer's cache [1, heads, past, width], gains [3] and `start`, the first place whose
    logits are wanted

    to logits [n - start], the longer caches, and each layer's attention
    """
    g, text = Graph("speak"), config["text_config"]
    size, heads, width, layers = (text[k]
                                  for k in ("hidden_size", "num_attention_heads", "head_dim", "num_hidden_layers"))
    own = lambda name: weights[f"language_model.{name}"]
    rank = len(next(iter(deltas.values()))[0]) // 3
    gains = g.Gather("gains", np.repeat(np.arange(3), rank), axis=0)
    norm = lambda x, name: g.RMSNormalization(x, own(f"{name}.weight"), axis=-1, epsilon=text["rms_norm_eps"])
    def linear(x, *paths, add=None):
        "Linear layers that read the same, each with its adapters, in one product; or one of them, added to something"
        a, b = zip(*(deltas[f"language_model.{path}"] for path in paths))
        weight = np.concatenate([own(f"model.{path}.weight") for path in paths]).T
        plain = g.Gemm(x, weight, add) if add else g.MatMul(x, weight)
        if len(paths) == 1: return g.Gemm(g.Mul(g.MatMul(x, a[0].T), gains), b[0].T, plain)
        parts = g.Split(plain, n=len(paths), num_outputs=len(paths), axis=-1)
        return [g.Gemm(g.Mul(g.MatMul(x, a.T), gains), b.T, part) for a, b, part in zip(a, b, parts)]

    # Pictures take the places of their tokens, in order
    is_image = g.Equal("ids", ints(config["image_token_index"]))
    place = g.Max(g.Sub(g.CumSum(g.Cast(is_image, to=TensorProto.INT64), np.int64(0)), ints(1)), ints(0))
    x = g.Where(g.Unsqueeze(is_image, ints(1)), g.Gather("features", place, axis=0),
                g.Gather(own("model.embed_tokens.weight"), "ids", axis=0))
    past = g.Shape("past_0", start=2, end=3)
    keys_at = g.Range(np.int64(0), g.Squeeze(g.Add(g.Shape("ids"), past)), np.int64(1))
    positions = g.Slice(keys_at, past, ints(1 << 40))
    frequencies = (text["rope_parameters"]["rope_theta"] **
                   -(np.arange(0, width, 2, dtype=np.float32) / width)).astype(np.float32)
    angles = g.Mul(g.Unsqueeze(g.Cast(positions, to=TensorProto.FLOAT), ints(0, 2)), frequencies)
    cos, sin = g.Cos(angles), g.Sin(angles)
    mask = g.LessOrEqual(keys_at, g.Unsqueeze(positions, ints(1)))
    first, ends = ints(0), ints(1 << 40)
    deep = lambda x: g.Unsqueeze(x, ints(0))
    turn = lambda x: g.RotaryEmbedding(deep(x), cos, sin, num_heads=heads)
    for i in range(layers):
        h = norm(x, f"model.layers.{i}.input_layernorm")
        q, k, v = linear(h, *(f"layers.{i}.self_attn.{part}_proj" for part in "qkv"))
        q = turn(q)
        if i == layers - 1:         # above the last keys and values only what is wanted is computed
            q, x, mask = g.Slice(q, "start", ends, ints(1)), g.Slice(x, "start", ends, first), g.Slice(mask, "start",
                ends, first)
        h = g.Attention(q, turn(k), deep(v), mask, f"past_{2 * i}", f"past_{2 * i + 1}", q_num_heads=heads,
                        kv_num_heads=heads, qk_matmul_output_mode=3,
                        outputs=[f"mixed_{i}", f"present_{2 * i}", f"present_{2 * i + 1}", f"attention_{i}"])[0]
        x = linear(g.Squeeze(h, ints(0)), f"layers.{i}.self_attn.o_proj", add=x)
        gate, up = linear(norm(x, f"model.layers.{i}.post_attention_layernorm"),
                          *(f"layers.{i}.mlp.{part}_proj" for part in ("gate", "up")))
        x = linear(g.Mul(g.Mul(gate, g.Sigmoid(gate)), up), f"layers.{i}.mlp.down_proj", add=x)
    g.MatMul(norm(x, "model.norm"), own("lm_head.weight").T, outputs=["logits"])
    floats, cache = TensorProto.FLOAT, range(2 * layers)
    g.save(folder,
           [("ids", TensorProto.INT64, ["n"]), ("features", floats, ["patches", size]), ("gains", floats, [3]),
            ("start", TensorProto.INT64, [1]),
                    *[(f"past_{i}", floats, [1, heads, "past", width]) for i in cache]],
           [("logits", floats, ["wanted", text["vocab_size"]]),
            *[(f"present_{i}", floats, [1, heads, "total", width]) for i in cache],
            *[(f"attention_{i}", floats, [1, heads, None, "total"]) for i in range(layers)]])


def export(folder):
    "Write the graphs see.onnx and speak.onnx, each with its weights (.bin) beside it"
    config, weights = json.loads((TINY/"config.json").read_text()), load_file(TINY/"model.safetensors")
    folder.mkdir(parents=True, exist_ok=True)
    tower(folder, weights, config)
    language(folder, weights, config, adapters())
