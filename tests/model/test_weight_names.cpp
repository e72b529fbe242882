// Names of the model: what wraps it comes off, names of other ages and projects, what stands beside the model.
#include <doctest/doctest.h>

#include "kernels/error.h"
#include "lib/model/names.h"
#include "lib/model/weights.h"

namespace vmamba {
namespace {

StateDict named(const std::vector<std::string>& names) {
  StateDict result;
  result.where = "file";
  for (const std::string& name : names) result.add(name, HostTensor{{1}, {1}});
  return result;
}

std::vector<std::string> names_of(const StateDict& weights) {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : weights.tensors) names.push_back(name);
  return names;
}

const std::vector<std::string> model{"patch_embed.0.weight", "layers.0.blocks.1.op.Ds",
                                     "classifier.head.bias"};

TEST_CASE("what wraps the model comes off, in any nesting, and is said") {
  for (const char* wrapper :
       {"module.", "_orig_mod.", "model.", "net.", "encoder.", "backbone.", "vmamba.",
        "_fsdp_wrapped_module.", "module._orig_mod.", "model.module.backbone._orig_mod.", "module.module."}) {
    CAPTURE(wrapper);
    std::vector<std::string> wrapped = model;
    for (std::string& name : wrapped) name.insert(0, wrapper);
    std::vector<std::string> remarks;
    const StateDict got = with_current_names(named(wrapped), &remarks);
    CHECK(names_of(got) == model);
    REQUIRE(remarks.size() == 1);
    CHECK(remarks[0] == std::string("names are taken without ") + wrapper);
    CHECK(names_of(with_current_names(got)) == model);
  }
  CHECK(names_of(with_current_names(
            named({"layers.0._checkpoint_wrapped_module.blocks.0.op._fsdp_wrapped_module.Ds"}))) ==
        std::vector<std::string>{"layers.0.blocks.0.op.Ds"});
  std::vector<std::string> remarks;
  CHECK(names_of(with_current_names(named(model), &remarks)) == model);
  CHECK(remarks.empty());
  // A name is the model's or it stays: "model.fc" alone is no reason to take "model." off.
  CHECK(names_of(with_current_names(named({"model.fc.weight", "net.0.bias"}))) ==
        std::vector<std::string>{"model.fc.weight", "net.0.bias"});
}

TEST_CASE("beside a wrapped model stands the rest of a larger one; within it a strange name is unexpected") {
  std::vector<std::string> remarks;
  const StateDict detector =
      with_current_names(named({"module.backbone.layers.0.blocks.0.op.Ds", "module.backbone.outnorm0.weight",
                                "module.neck.a", "bbox_head.b", "module.backbone.extra.c"}),
                         &remarks);
  CHECK(names_of(detector) ==
        std::vector<std::string>{"layers.0.blocks.0.op.Ds", "outnorm0.weight", "extra.c"});
  CHECK(is_backbone(detector));
  REQUIRE(remarks.size() == 2);
  CHECK(remarks[1].find("2 tensors around the model (bbox_head, module; --prefix chooses)") !=
        std::string::npos);
  CHECK_FALSE(is_backbone(named(model)));
  // Not wrapped: nothing tells that it is another model's.
  CHECK(names_of(with_current_names(named({"layers.0.blocks.0.op.Ds", "extra.c"}))).size() == 2);
  CHECK_THROWS_WITH_AS(with_current_names(named({"layers.0.x", "model.layers.0.x"})),
                       doctest::Contains("layers.0.x and model.layers.0.x are both names of layers.0.x"),
                       InputError);
}

TEST_CASE("counts and auxiliary heads are left out, with a word") {
  std::vector<std::string> remarks;
  StateDict all = named({"layers.0.blocks.0.op.Ds", "total_ops", "layers.0.total_params", "module.n_averaged",
                         "aux_head.fc.weight", "auxiliary.0.bias",
                         "layers.0.blocks.0.norm.num_batches_tracked", "scale"});
  all.tensors.back().second.unreadable = "file: tensor scale is odd";
  CHECK(names_of(with_current_names(all, &remarks)) == std::vector<std::string>{"layers.0.blocks.0.op.Ds"});
  REQUIRE(remarks.size() == 3);
  CHECK(remarks[0] == "left out: counts (n_averaged, total_ops, total_params)");
  CHECK(remarks[1] == "left out: auxiliary heads (aux_head, auxiliary)");
  CHECK(remarks[2] == "left out: what can't be read and is not the model's (scale)");
  // One of the model's own stays, to be told.
  StateDict own = named({"layers.0.blocks.0.op.Ds"});
  own.tensors[0].second.unreadable = "file: tensor Ds is odd";
  CHECK(names_of(with_current_names(own)).size() == 1);
}

TEST_CASE("the hub's names") {
  StateDict hub =
      named({"vmamba.patch_embeddings.projection.0.weight", "vmamba.patch_embeddings.projection.1.bias",
             "vmamba.patch_embeddings.projection.3.weight", "vmamba.patch_embeddings.projection.4.bias",
             "vmamba.layers.0.downsample.down.weight", "vmamba.layers.0.downsample.norm.weight",
             "vmamba.norm.weight", "head.weight"});
  hub.tensors.emplace_back("vmamba.layers.0.blocks.0.op.x_proj.weight",
                           StoredTensor{.dtype = DType::float32, .dims = {12, 32}});
  hub.tensors.emplace_back("vmamba.layers.0.blocks.0.op.dt_projs.weight",
                           StoredTensor{.dtype = DType::float32, .dims = {128, 1}});
  const StateDict got = with_current_names(hub);
  CHECK(names_of(got) ==
        std::vector<std::string>{"patch_embed.0.weight", "patch_embed.2.bias", "patch_embed.5.weight",
                                 "patch_embed.7.bias", "layers.0.downsample.1.weight",
                                 "layers.0.downsample.3.weight", "classifier.norm.weight",
                                 "classifier.head.weight", "layers.0.blocks.0.op.x_proj_weight",
                                 "layers.0.blocks.0.op.dt_projs_weight"});
  CHECK(got.at("layers.0.blocks.0.op.x_proj_weight").dims == std::vector<int64_t>{4, 3, 32});
  CHECK(got.at("layers.0.blocks.0.op.dt_projs_weight").dims == std::vector<int64_t>{4, 32, 1});
}

TEST_CASE("another model's weights are called by its name") {
  const std::vector<std::pair<const char*, const char*>> models{
      {"layers.0.blocks.0.attn.relative_position_bias_table", "Swin Transformer"},
      {"layers.0.blocks.0.conv33conv33conv11.0.weight", "MedMamba"},
      {"layers.0.blocks.0.conv_branch.0.weight", "EfficientVMamba"},
      {"vmunet.layers_up.0.blocks.0.ln_1.weight", "VM-UNet"},
      {"layers.0.mixer.A_b_log", "Vim (Vision Mamba)"},
      {"blocks.0.attn.qkv.weight", "a Vision Transformer"},
      {"layer1.0.conv1.weight", "ResNet"}};
  const Config config = parse_config(R"({"depths": [1], "dims": 8})", "config");
  for (const auto& [name, project] : models) {
    const StateDict weights = named({"patch_embed.proj.weight", name, "layers.0.blocks.1.x"});
    CHECK(foreign_model(weights) == project);
    CHECK_THROWS_WITH_AS(canonical_weights(config, weights),
                         doctest::Contains((std::string("weights of another model: ") + project).c_str()),
                         InputError);
  }
  CHECK(foreign_model(named(model)).empty());
}

TEST_CASE("a tensor of the model that can't be read is the error; a backbone is told to be one") {
  const Config config = parse_config(R"({"depths": [1], "dims": 8, "num_classes": 2})", "config");
  StateDict weights;
  weights.where = "file";
  for (const ParameterSpec& spec : parameter_specs(config)) {
    weights.tensors.emplace_back(spec.name, StoredTensor{.dtype = DType::float32, .dims = spec.dims});
  }
  CHECK(check_weights(config, weights).ok());
  StateDict odd = weights;
  odd.tensors[3].second.unreadable = "file: tensor three is odd";
  CHECK_THROWS_WITH_AS(canonical_weights(config, odd), doctest::Contains("tensor three is odd"), InputError);

  std::erase_if(weights.tensors, [](const auto& one) { return one.first.starts_with("classifier."); });
  CHECK_FALSE(check_weights(config, weights).backbone);
  weights.add("outnorm0.weight", HostTensor{{8}, std::vector<float>(8)});
  const WeightsReport report = check_weights(config, weights);
  CHECK(report.backbone);
  CHECK_FALSE(report.ok());
  CHECK_THROWS_WITH_AS(canonical_weights(config, weights), doctest::Contains("a backbone"), InputError);
}

}  // namespace
}  // namespace vmamba
