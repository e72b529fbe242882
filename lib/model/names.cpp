// Canonical names for the state dicts of all code versions.
#include "lib/model/names.h"

#include <algorithm>
#include <array>
#include <set>

#include "kernels/error.h"
#include "lib/support/text.h"

namespace vmamba {
namespace {

bool replace_prefix(std::string& name, std::string_view old_prefix, std::string_view new_prefix) {
  if (!name.starts_with(old_prefix)) return false;
  name.replace(0, old_prefix.size(), new_prefix);
  return true;
}

bool replace_part(std::string& name, std::string_view old_part, std::string_view new_part) {
  const size_t at = name.find(old_part);
  if (at == std::string::npos) return false;
  name.replace(at, old_part.size(), new_part);
  return true;
}

// Replaces the suffix `old_tail` (whole components) of `name`.
bool replace_suffix(std::string& name, std::string_view old_tail, std::string_view new_tail) {
  if (!name.ends_with(old_tail)) return false;
  name.replace(name.size() - old_tail.size(), old_tail.size(), new_tail);
  return true;
}

std::string current_name(std::string name) {
  replace_prefix(name, "patch_embed.proj.", "patch_embed.0.") ||
      replace_prefix(name, "patch_embed.norm.", "patch_embed.2.") ||
      replace_prefix(name, "patch_embeddings.projection.0.", "patch_embed.0.") ||
      replace_prefix(name, "patch_embeddings.projection.1.", "patch_embed.2.") ||
      replace_prefix(name, "patch_embeddings.projection.3.", "patch_embed.5.") ||
      replace_prefix(name, "patch_embeddings.projection.4.", "patch_embed.7.") ||
      replace_prefix(name, "norm.", "classifier.norm.") || replace_prefix(name, "head.", "classifier.head.");
  if (const auto place = in_block(name)) {
    std::string tail(place->rest);
    replace_prefix(tail, "ln_1.", "norm.") || replace_prefix(tail, "self_attention.", "op.");
    if (tail.starts_with("op.")) {
      replace_suffix(tail, "x_proj.weight", "x_proj_weight") ||
          replace_suffix(tail, "dt_projs.weight", "dt_projs_weight") ||
          replace_suffix(tail, "dt_projs.bias", "dt_projs_bias");
    }
    name.replace(name.size() - place->rest.size(), std::string::npos, tail);
  }
  return name;
}

std::string_view first_component(std::string_view name) {
  return name.substr(0, name.find('.'));
}

// Whether a name of the model, old or new, may begin with this component.
bool begins_model(std::string_view component) {
  constexpr std::array<std::string_view, 7> known{
      "patch_embed", "patch_embeddings", "layers", "classifier", "norm", "head", "pos_embed"};
  return std::ranges::count(known, component) > 0 || component.starts_with("outnorm");
}

// Returns `name` without wrapper components; `wrapper` receives what was removed ("module.model.").
std::string unwrapped(const std::string& name, std::string& wrapper) {
  constexpr std::array<std::string_view, 4> anywhere{"module", "_orig_mod", "_fsdp_wrapped_module",
                                                     "_checkpoint_wrapped_module"};
  constexpr std::array<std::string_view, 5> in_front{"model", "net", "encoder", "backbone", "vmamba"};
  std::string bare;
  std::string_view rest = name;
  wrapper.clear();
  while (!rest.empty()) {
    const std::string_view component = first_component(rest);
    const bool last = component.size() == rest.size();
    const bool wraps = !last && (std::ranges::count(anywhere, component) > 0 ||
                                 (bare.empty() && std::ranges::count(in_front, component) > 0));
    std::string& target = wraps ? wrapper : bare;
    target += component;
    if (!last) target += '.';
    rest.remove_prefix(last ? rest.size() : component.size() + 1);
  }
  return bare;
}

// Counters stored beside the model: of profilers (thop), of weight averaging, of BatchNorm.
bool is_count(std::string_view name) {
  const size_t dot = name.rfind('.');
  const std::string_view last = dot == std::string_view::npos ? name : name.substr(dot + 1);
  return last == "total_ops" || last == "total_params" || last == "num_batches_tracked" ||
         name == "n_averaged";
}

std::string list_of(const std::set<std::string>& words) {
  constexpr size_t most = 6;
  std::string text;
  size_t shown = 0;
  for (const std::string& word : words) {
    if (shown++ == most) return text + ", …";
    text += (text.empty() ? "" : ", ") + printable(word);
  }
  return text;
}

}  // namespace

StateDict with_current_names(StateDict tensors, std::vector<std::string>* remarks) {
  const auto remark = [&](std::string text) {
    if (remarks != nullptr) remarks->push_back(std::move(text));
  };
  struct Named {
    std::string old, name, wrapper;
    bool of_model;
    StoredTensor tensor;
  };
  std::vector<Named> named, kept;
  std::set<std::string> wrappers, counts, auxiliary, unreadable, around;
  for (auto& [old, tensor] : tensors.tensors) {
    std::string wrapper, name = unwrapped(old, wrapper);
    const bool of_model = begins_model(first_component(name));
    if (of_model && !wrapper.empty()) wrappers.insert(wrapper);
    named.push_back({old, std::move(name), std::move(wrapper), of_model, std::move(tensor)});
  }
  // A name that is not the model's is unexpected inside the wrapper of the model; outside of it, it belongs to a larger
  // model.
  size_t outside = 0;
  for (Named& one : named) {
    const std::string beginning(first_component(one.name));
    if (is_count(one.name)) {
      if (!one.name.ends_with("num_batches_tracked")) counts.insert(one.name.substr(one.name.rfind('.') + 1));
    } else if (beginning.starts_with("aux")) {
      auxiliary.insert(beginning);
    } else if (one.of_model) {
      kept.push_back(std::move(one));
    } else if (!one.tensor.unreadable.empty()) {
      unreadable.insert(one.name);
    } else if (!wrappers.empty() && !wrappers.contains(one.wrapper)) {
      around.insert(std::string(first_component(one.old)));
      ++outside;
    } else {
      if (!wrappers.contains(one.wrapper)) one.name = one.old;
      kept.push_back(std::move(one));
    }
  }
  if (!wrappers.empty()) remark(fmt::format("names are taken without {}", list_of(wrappers)));
  if (outside > 0) {
    remark(fmt::format("left out: {} tensors around the model ({}; --prefix chooses)", outside,
                       list_of(around)));
  }
  if (!counts.empty()) remark(fmt::format("left out: counts ({})", list_of(counts)));
  if (!auxiliary.empty()) remark(fmt::format("left out: auxiliary heads ({})", list_of(auxiliary)));
  if (!unreadable.empty()) {
    remark(fmt::format("left out: what can't be read and is not the model's ({})", list_of(unreadable)));
  }

  // The public one-file class has patch merging as a Sequential of padding, norm and Linear, and the projections of the
  // four directions as one grouped Linear. (A convolutional downsample has its norm at index 3.) The Hugging Face class
  // has named parts in its convolutional downsample.
  const auto any_ends_with = [&](std::string_view tail) {
    return std::ranges::any_of(kept, [&](const Named& one) { return one.name.ends_with(tail); });
  };
  const bool one_file_merging = any_ends_with(".downsample.2.weight");
  const bool hub_downsample = any_ends_with(".downsample.down.weight");
  std::map<std::string, std::string> seen;  // current name → name in the file
  tensors.tensors.clear();
  for (auto& [old, before, wrapper, of_model, tensor] : kept) {
    std::string name = current_name(before);
    if (one_file_merging) {
      replace_part(name, ".downsample.1.", ".downsample.norm.") ||
          replace_part(name, ".downsample.2.", ".downsample.reduction.");
    }
    if (hub_downsample) {
      replace_part(name, ".downsample.down.", ".downsample.1.") ||
          replace_part(name, ".downsample.norm.", ".downsample.3.");
    }
    if ((name.ends_with(".op.x_proj_weight") || name.ends_with(".op.dt_projs_weight")) &&
        tensor.dims.size() == 2 && tensor.dims[0] % 4 == 0) {
      tensor.dims = {4, tensor.dims[0] / 4, tensor.dims[1]};
    }
    const auto [place, inserted] = seen.emplace(name, old);
    if (!inserted) {
      fail_input("{}: {} and {} are both names of {}: --prefix chooses, or remove one", tensors.where,
                 printable(place->second), printable(old), printable(name));
    }
    tensors.tensors.emplace_back(std::move(name), std::move(tensor));
  }
  return tensors;
}

bool is_backbone(const StateDict& current) {
  bool outnorm = false, classifier = false;
  for (const auto& [name, tensor] : current.tensors) {
    outnorm = outnorm || out_norm_stage(name);
    classifier = classifier || name.starts_with("classifier.");
  }
  return outnorm && !classifier;
}

std::vector<int> backbone_outputs(const StateDict& current) {
  std::set<int> stages;
  for (const auto& [name, tensor] : current.tensors)
    if (const auto stage = out_norm_stage(name)) stages.insert(static_cast<int>(*stage));
  return {stages.begin(), stages.end()};
}

std::string_view foreign_model(const StateDict& tensors) {
  struct Sign {
    std::string_view part, model;
  };
  constexpr std::array signs{
      Sign{"relative_position_bias_table", "Swin Transformer"},
      Sign{"conv33conv33conv11", "MedMamba"},
      Sign{".conv_branch.", "EfficientVMamba"},
      Sign{"layers_up.", "VM-UNet"},
      Sign{".multi_scan.", "LocalVMamba"},
      Sign{".A_b_log", "Vim (Vision Mamba)"},
      Sign{".mixer.A_log", "Mamba (not its visual kind)"},
      Sign{".attn.qkv.", "a Vision Transformer"},
      Sign{"downsample_layers.", "ConvNeXt"},
      Sign{"layer1.0.conv1.", "ResNet"},
  };
  for (const Sign& sign : signs) {
    for (const auto& [name, tensor] : tensors.tensors) {
      if (name.find(sign.part) != std::string::npos) return sign.model;
    }
  }
  return {};
}

}  // namespace vmamba
