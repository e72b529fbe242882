// Names of steps, taps and parameters: taken apart as they were built, and what is no such name.
#include <doctest/doctest.h>

#include <string>

#include "lib/config/names.h"

using namespace vmamba;

TEST_CASE("a name in a block is taken apart as it was built") {
  CHECK(stage_name(3) == "layers.3");
  CHECK(downsample_name(0) == "layers.0.downsample");
  const std::string name = block_name(2, 14) + ".op." + direction_name(3);
  CHECK(name == "layers.2.blocks.14.op.scan.k3");
  const auto place = in_block(name);
  REQUIRE(place);
  CHECK(place->stage == 2);
  CHECK(place->block == 14);
  CHECK(place->block_name == "layers.2.blocks.14");
  CHECK(place->rest == "op.scan.k3");
  CHECK(in_block("layers.0.blocks.1")->rest == "");
  for (const char* other :
       {"", "layers.", "layers.0", "layers.0.downsample", "layers.0.blocks", "layers.x.blocks.0",
        "layers.0.blocks.", "layers.0.blocks.-1.op", "layers.0.blocks.1x.op", "layers.0blocks.1.op",
        "layers.12345.blocks.0.norm", "blocks.0.norm", "model.layers.0.blocks.0.norm"}) {
    CAPTURE(other);
    CHECK_FALSE(in_block(other));
    CHECK(block_of(other) == other);
  }
  CHECK(block_of(name) == "layers.2.blocks.14");
}

TEST_CASE("the kind of a step, the same in every block") {
  CHECK(kind_of("layers.0.blocks.12.op.scan") == "op.scan");
  CHECK(kind_of("layers.3.downsample") == "downsample");
  CHECK(kind_of("patch_embed") == "patch_embed");
  CHECK(kind_of("layers.0.blocks") == "blocks");
  CHECK(kind_of("layers.0.blocks.1") == "blocks.1");
  CHECK(kind_of("blocks.0") == "blocks.0");
}

TEST_CASE("the part of the model that a parameter belongs to") {
  CHECK(part_of("pos_embed") == "patch_embed");
  CHECK(part_of("patch_embed.5.weight") == "patch_embed");
  CHECK(part_of("layers.0.blocks.1.op.Ds") == "layers.0");
  CHECK(part_of("layers.0.downsample.1.weight") == "layers.0.downsample");
  CHECK(part_of("classifier.head.bias") == "classifier");
}

TEST_CASE("the step that a tap belongs to, and the direction of the scan") {
  CHECK(step_of("layers.0.blocks.1.op.scan.k2") == "layers.0.blocks.1.op");
  CHECK(step_of("layers.0.blocks.1.norm") == "layers.0.blocks.1.op");
  CHECK(step_of("layers.0.blocks.1.norm2") == "layers.0.blocks.1.mlp");
  CHECK(step_of("layers.0.blocks.1.mlp.fc1") == "layers.0.blocks.1.mlp");
  CHECK(step_of("layers.0.downsample") == "layers.0.downsample");
  CHECK(step_of("patch_embed") == "patch_embed");
  CHECK(step_of("classifier.pool") == "classifier");
  CHECK(step_of("logits") == "classifier");
  for (const char* sum : {"layers.0.blocks.1", "layers.0.blocks", "pos_embed", "input"})
    CHECK(step_of(sum) == "");

  CHECK(direction_of("layers.0.blocks.1.op.scan.k2") == "k2");
  CHECK(direction_of("layers.0.blocks.1.op.cascade_rows.scan.k0") == "k0");
  for (const char* other : {"layers.0.blocks.1.op.scan", "scan", "", "layers.0"})
    CHECK(direction_of(other) == "");
}
