"""Where the units are, what switching them off does, and that hooks never outlive their block."""

import copy
from types import SimpleNamespace

import pytest
import torch
import transformers
from torch import nn

from sparseact.attribution import attribute_in_one_pass
from sparseact.errors import InputError, SparseactError, UnsupportedModelError
from sparseact.sites import Layout, capture, find_sites, on_units
from sparseact.testing import DISTINCT, LAYERS, tiny_model

BLOOM = Layout(
    "BLOOM",
    ("mlp.dense_h_to_4h",),
    "mlp.dense_4h_to_h",
    ("self_attention.query_key_value",),
    "self_attention.dense",
)

# Bytes of one neuron and of one head, float32, hidden size 32, heads of 8: rows of 32 weights in and
# columns of 32 weights out, 4 bytes each.
GATED, UNGATED = 3 * 32 * 4, 2 * 32 * 4
HEAD_OF_8, HEAD_OF_16 = 8 * (32 + 32) * 4, 16 * (32 + 32) * 4
BYTES = {
    "llama": (GATED, HEAD_OF_8),
    "mobillama": (GATED / LAYERS, HEAD_OF_8),  # one MLP serves three blocks and is counted once
    "mistral": (GATED, HEAD_OF_8),
    "qwen2": (GATED, HEAD_OF_8),
    "qwen3": (GATED, HEAD_OF_16),
    "phi": (UNGATED, HEAD_OF_8),
    "phi3": (GATED, HEAD_OF_8),  # gate and up in one linear, q, k and v in another
    "gemma2": (GATED, HEAD_OF_8),
    "gemma3": (GATED, HEAD_OF_16),
    "opt": (UNGATED, HEAD_OF_8),
    "opt-post-norm": (UNGATED, HEAD_OF_8),
    "gpt2": (UNGATED, HEAD_OF_8),  # q, k and v in one Conv1D
    "gpt-neox": (UNGATED, HEAD_OF_8),
    "gpt-neox-sequential": (UNGATED, HEAD_OF_8),
    "stablelm": (GATED, HEAD_OF_8),
    "olmo2": (GATED, HEAD_OF_8),
    "nemotron": (UNGATED, HEAD_OF_8),
    "granite4": (GATED, HEAD_OF_8),
}


@pytest.fixture(scope="module", params=DISTINCT)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def model(family):
    return tiny_model(family)


@pytest.fixture(scope="module")
def ids():
    return torch.randint(3, 64, (2, 7), generator=torch.Generator().manual_seed(1))


def logits(model, ids):
    with torch.no_grad():
        return model(ids).logits


def number_of_hooks(model):
    return sum(
        len(hooks)
        for module in model.modules()
        for name, hooks in vars(module).items()
        if name.startswith("_") and "hooks" in name and hooks
    )


# Where the units are


def test_every_family_has_a_site_of_each_kind_in_each_layer(family, model):
    sites = find_sites(model)
    assert [site.name for site in sites] == [f"{kind}.{layer}" for layer in range(3) for kind in ("mlp", "heads")]
    neuron, head = BYTES[family]
    for site in sites:
        if site.kind == "mlp":
            assert (site.units, site.unit_size, site.unit_bytes) == (48, 1, neuron)
        else:
            assert (site.units, site.unit_size, site.unit_bytes) == (4, head / (64 * 4), head)


def test_units_select_the_kind(model):
    assert {site.kind for site in find_sites(model, "mlp")} == {"mlp"}
    assert {site.kind for site in find_sites(model, "heads")} == {"heads"}
    assert len(find_sites(model, "both")) == 2 * len(find_sites(model, "mlp"))


def test_unknown_units_are_refused_with_a_hint(model):
    with pytest.raises(InputError, match=r"units: unknown units 'head'. Did you mean heads\?"):
        find_sites(model, "head")


def test_unit_bytes_follow_the_dtype():
    assert find_sites(tiny_model("llama").bfloat16())[0].unit_bytes == GATED / 2


def test_unit_bytes_of_a_shared_mlp_add_up_to_its_weights():
    model = tiny_model("mobillama")
    mlp = model.model.layers[0].mlp
    weights = sum(p.numel() for p in mlp.parameters()) * 4
    assert sum(site.units * site.unit_bytes for site in find_sites(model, "mlp")) == pytest.approx(weights)


# What a mask does


def test_level_0_gives_bit_identical_logits(model, ids):
    dense = logits(model, ids)
    sites = find_sites(model)

    def keep_all(site, x):
        return x * torch.ones(*x.shape[:2], site.units, dtype=torch.bool).unsqueeze(-1)

    with on_units(model, sites, keep_all):
        assert torch.equal(logits(model, ids), dense)
    with capture(model, sites):
        assert torch.equal(logits(model, ids), dense)
    assert torch.equal(logits(model, ids), dense)


@pytest.mark.parametrize("layer", range(LAYERS))
@pytest.mark.parametrize("kind", ["mlp", "heads"])
def test_a_layer_that_is_off_puts_out_its_bias(model, ids, kind, layer):
    [site] = [site for site in find_sites(model, kind) if site.layer == layer]
    with on_units(model, [site], lambda _, x: torch.zeros_like(x)):
        off = logits(model, ids)

    linear = model.get_submodule(site.module)
    earlier = [s for s in find_sites(model, kind)[:layer] if model.get_submodule(s.module) is linear]
    calls = []

    def only_bias(module, args, output):
        calls.append(module)
        if len(calls) - 1 != len(earlier):  # a shared module is replaced in this layer alone
            return output
        bias = getattr(module, "bias", None)
        return torch.zeros_like(output) if bias is None else bias.expand_as(output)

    hook = linear.register_forward_hook(only_bias)
    expected = logits(model, ids)
    hook.remove()
    torch.testing.assert_close(off, expected, rtol=0, atol=1e-6)
    assert (off - logits(model, ids)).abs().max() > 1e-3  # the layer does matter


@pytest.mark.parametrize("kind", ["mlp", "heads"])
def test_a_unit_that_is_off_equals_its_weights_cut_out(family, model, ids, kind):
    unit = 2
    sites = find_sites(model, kind)

    def switch_off(site, x):
        on = torch.ones(site.units, 1)
        on[unit] = 0
        return x * on

    with on_units(model, sites, switch_off):
        off = logits(model, ids)

    cut = copy.deepcopy(model)
    for site in sites:
        columns = slice(unit * site.unit_size, (unit + 1) * site.unit_size)
        weight = cut.get_submodule(site.module).weight.data
        (weight.T if family != "gpt2" else weight)[columns] = 0  # Conv1D is transposed
    torch.testing.assert_close(off, logits(cut, ids), rtol=0, atol=1e-5)


def test_capture_sees_what_enters_the_linears(family, model, ids):
    sites = find_sites(model)
    entered = {}
    hooks = [
        model.get_submodule(site.module).register_forward_pre_hook(
            lambda module, args: entered.setdefault(module, []).append(args[0])
        )
        for site in {model.get_submodule(site.module): site for site in sites}.values()
    ]
    with capture(model, sites) as x:
        logits(model, ids)
    for hook in hooks:
        hook.remove()
    for site in sites:
        assert x[site].shape == (2, 7, site.units, site.unit_size)
        calls = entered[model.get_submodule(site.module)]
        one = calls[site.layer if len(calls) > 1 else 0]
        assert torch.equal(x[site].flatten(), one.flatten())
        assert torch.equal(site.split(one), x[site].reshape(site.split(one).shape))


def test_layers_that_share_an_mlp_are_told_apart(ids):
    model = tiny_model("mobillama")
    sites = find_sites(model, "mlp")
    seen = []
    with on_units(model, sites, lambda site, x: seen.append(site.layer) or x):
        logits(model, ids)
    assert seen == [0, 1, 2]
    with capture(model, sites[1:2]) as x:  # one of the blocks that share it
        logits(model, ids)
    assert list(x) == sites[1:2]


# Hooks


def test_hooks_are_gone_after_the_block(model, ids):
    before = number_of_hooks(model)
    with on_units(model, find_sites(model), lambda _, x: x):
        assert number_of_hooks(model) > before
        logits(model, ids)
    assert number_of_hooks(model) == before


def test_hooks_are_gone_after_an_exception(model, ids):
    before = number_of_hooks(model)
    with pytest.raises(ZeroDivisionError), capture(model, find_sites(model)):
        logits(model, ids)
        raise ZeroDivisionError
    assert number_of_hooks(model) == before

    def fail(site, x):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), on_units(model, find_sites(model), fail):
        logits(model, ids)
    assert number_of_hooks(model) == before


def test_hooks_are_gone_when_a_site_is_of_another_model():
    gpt2 = tiny_model("gpt2")
    sites = find_sites(gpt2)
    strange = find_sites(tiny_model("llama"))
    with pytest.raises(AttributeError), on_units(gpt2, [*sites, *strange], lambda _, x: x):
        pass
    assert number_of_hooks(gpt2) == 0


def test_contexts_nest_in_the_order_they_were_opened(model, ids):
    site, *others = find_sites(model, "mlp")
    with capture(model, [site]) as plain:
        logits(model, ids)
    with (
        on_units(model, [site], lambda _, x: x * 2),
        on_units(model, [site, *others], lambda _, x: x + 1),
        capture(model, [site]) as inside,
    ):
        logits(model, ids)
    torch.testing.assert_close(inside[site], plain[site] * 2 + 1)


def test_a_block_that_goes_round_its_linear_is_no_silent_no_op(ids):
    model = tiny_model("phi")
    for block in model.model.layers:
        mlp = block.mlp
        mlp.forward = lambda x, mlp=mlp: nn.functional.linear(mlp.fc1(x), mlp.fc2.weight)
    with (
        pytest.raises(SparseactError, match="none of its 3 sites was touched"),
        on_units(model, find_sites(model, "mlp"), lambda _, x: x * 0),
    ):
        logits(model, ids)


def test_no_sites_at_all_are_refused(model):
    with pytest.raises(SparseactError, match="no sites"), on_units(model, [], lambda _, x: x):
        pass


def test_an_error_inside_is_not_hidden_by_the_no_op_check(ids):
    model = tiny_model("phi")
    with pytest.raises(KeyError), on_units(model, find_sites(model), lambda _, x: x):
        raise KeyError


# Models that are not known


def test_an_unknown_family_is_recognised_by_structure():
    options = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.GraniteConfig(vocab_size=64, num_hidden_layers=2, **options)
    model = transformers.AutoModelForCausalLM.from_config(config)
    assert [site.name for site in find_sites(model)] == ["mlp.0", "heads.0", "mlp.1", "heads.1"]


def test_a_module_of_ones_own_is_recognised_by_structure():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(12, 12) for _ in range(4))

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.self_attn, self.fc1, self.fc2 = Attention(), nn.Linear(12, 20), nn.Linear(20, 12)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.config = SimpleNamespace(num_hidden_layers=2, num_attention_heads=3, model_type="mine")
            self.stack = nn.ModuleList([Block(), Block()])

    mlp, heads, *_ = find_sites(Model())
    assert (mlp.block, mlp.module, mlp.units, mlp.unit_bytes) == ("stack.0", "stack.0.fc2", 20, 2 * 12 * 4)
    assert (heads.module, heads.units, heads.unit_size) == ("stack.0.self_attn.out_proj", 3, 4)


def mixtral():
    return transformers.MixtralConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=2,
    )  # fmt: skip


def qwen2_moe():
    """Its first block is dense and looks like Llama's; the others have experts."""
    return transformers.Qwen2MoeConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_experts=4, moe_intermediate_size=16, shared_expert_intermediate_size=16,
        mlp_only_layers=[0],
    )  # fmt: skip


@pytest.mark.parametrize("config", [mixtral, qwen2_moe])
def test_a_model_without_known_units_is_refused_in_one_line(config):
    model = transformers.AutoModelForCausalLM.from_config(config())
    with pytest.raises(UnsupportedModelError) as error:
        find_sites(model)
    line = str(error.value)
    assert "\n" not in line
    assert len(line) < 220
    assert repr(model.config.model_type) in line
    looked_for, _, found = line.partition(", have ")
    assert "mlp.gate_proj, mlp.up_proj, mlp.down_proj" in looked_for
    assert {"mixtral": "mlp.gate"}.get(config.__name__, "no other linears") in found
    assert "layout=sparseact.sites.Layout(...)" in line
    assert "entry point 'sparseact.families'" in line


def test_a_model_without_blocks_is_refused():
    model = nn.Linear(2, 2)
    model.config = SimpleNamespace(num_hidden_layers=4)
    with pytest.raises(UnsupportedModelError, match="Linear: no list of 4 blocks"):
        find_sites(model)


def test_heads_that_do_not_divide_the_width_are_refused():
    model = tiny_model("llama")
    model.config.num_attention_heads = 5
    with pytest.raises(UnsupportedModelError, match=r"model\.layers\.0\.self_attn\.o_proj: 32 inputs .* 5 heads"):
        find_sites(model)


@pytest.fixture
def bloom():
    torch.manual_seed(0)
    config = transformers.BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def test_a_layout_given_by_hand(bloom, ids):
    mlp, heads, *_ = find_sites(bloom, layout=BLOOM)
    assert (mlp.units, mlp.unit_bytes) == (128, UNGATED)
    assert (heads.units, heads.unit_size, heads.unit_bytes) == (4, 8, HEAD_OF_8)
    dense = logits(bloom, ids)
    with on_units(bloom, [mlp], lambda _, x: x * 0):
        assert not torch.equal(logits(bloom, ids), dense)


def test_a_layout_given_by_hand_that_does_not_fit_is_refused(bloom):
    wrong = Layout("wrong", ("mlp.up",), "mlp.down", ("attn.q",), "attn.o")
    with pytest.raises(UnsupportedModelError, match=r"blocks lack attn\.q, attn\.o, mlp\.up, mlp\.down \(wrong\)"):
        find_sites(bloom, layout=wrong)


def test_a_layout_published_as_an_entry_point(bloom, tmp_path, monkeypatch):
    with pytest.raises(UnsupportedModelError):
        find_sites(bloom)
    (tmp_path / "bloom_layout.py").write_text(f"from sparseact.sites import Layout\nBLOOM = {BLOOM!r}\n")
    info = tmp_path / "bloom_layout-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bloom-layout\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[sparseact.layouts]\nbloom = bloom_layout:BLOOM\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_sites(bloom) == find_sites(bloom, layout=BLOOM)


def test_attribution_refuses_a_model_outside_the_attention_interface(bloom):
    from sparseact.masked.decoding import prefill

    sites = find_sites(bloom, layout=BLOOM)
    prompt = torch.tensor([[3, 4, 5]])
    with pytest.raises(UnsupportedModelError, match="BloomForCausalLM") as error:
        attribute_in_one_pass(bloom, sites, prefill(bloom, prompt), torch.tensor([[6, 7]]))
    assert "\n" not in str(error.value)
    assert bloom.config._attn_implementation == "eager"
    assert number_of_hooks(bloom) == 0
