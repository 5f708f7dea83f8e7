// Models whose own files hold a multi-token-prediction module.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>

#include "drafters/drafters.h"
#include "grafts/merge.h"
#include "grafts/mtp.h"
#include "heads_testing.h"
#include "families/convert.h"
#include "io/gguf.h"
#include "io/gguf_writer.h"
#include "io/safetensors.h"
#include "serving.h"
#include "temp_folder.h"
#include "tensor/quantize.h"
#include "tiny_tokenizer.h"

namespace cambium {
namespace {

namespace fs = std::filesystem;

// A model whose own files hold the module: under DeepSeek's and Qwen's names, and as GGUF's nextn tensors.
class OwnModule : public testing::Test {
 protected:
  OwnModule() : pool_(2), model_(LoadWeights(pool_, kBase), pool_) {
    GraftOptions options;
    options.heads = 2;
    module_ = MakeGraft("mtp", options, model_.base());
    Fill(*module_, 0.15);
    for (int64_t i = 0; i < hidden_.view.size(); ++i) {
      const double x = static_cast<double>(i);
      hidden_.view.f32()[i] = static_cast<float>(std::sin(0.3 * x) + 0.5 * std::cos(0.011 * x));
    }
    for (int32_t t = 0; t < 6; ++t) tokens_.push_back((7 * t + 11) % static_cast<int32_t>(model_.config().vocab));
  }

  // The base's directory with the module in the same file.
  std::string WithModule(bool qwen) {
    const std::string out = directory_ + (qwen ? "/qwen" : "/deepseek"), prefix = "model.layers.3.";
    fs::create_directories(out);
    fs::copy_file(kBase + "/config.json", out + "/config.json");
    const SafetensorsFile base(kBase + "/model.safetensors");
    std::vector<TensorToWrite> tensors;
    for (const NamedTensor& tensor : base.tensors()) tensors.push_back({.name = tensor.name, .view = tensor.view});
    const std::map<std::string, std::string> names = {{"eh_proj.weight", "mtp.fc.weight"},
                                                      {"enorm.weight", "mtp.pre_fc_norm_embedding.weight"},
                                                      {"hnorm.weight", "mtp.pre_fc_norm_hidden.weight"},
                                                      {"shared_head.norm.weight", "mtp.norm.weight"}};
    module_->VisitParams([&](Parameter& p) {
      const std::string part = p.name.substr(prefix.size());
      const auto found = names.find(part);
      const std::string name = !qwen ? p.name : found != names.end() ? found->second : "mtp.layers.0." + part;
      tensors.push_back({.name = name, .view = p.value});
    });
    WriteSafetensors(out + "/model.safetensors", std::move(tensors));
    return out;
  }
  OwnedTensor Logits(Transformer& model, Graft& module) {
    return std::move(RunHeads(*module.heads(), model.pool(), 0, hidden_.view, tokens_).logits);
  }

  const std::string kBase = std::string(CAMBIUM_TEST_DIR) + "/golden/families/llama";
  ThreadPool pool_;
  Transformer model_;
  const TempFolder folder_;
  const std::string directory_ = folder_.path();
  std::unique_ptr<Graft> module_;
  OwnedTensor hidden_{OwnedTensor({6, 64})};
  std::vector<int32_t> tokens_;
};

TEST_F(OwnModule, InADirectoryIsPyTorchs) {
  std::ifstream file(std::string(CAMBIUM_TEST_DIR) + "/golden/heads.json");
  const nlohmann::json golden = nlohmann::json::parse(file);
  EXPECT_EQ(model_.weights().mtp_source, "");
  for (const bool qwen : {false, true}) {
    Transformer model(LoadWeights(pool_, WithModule(qwen)), pool_);
    ASSERT_NE(model.weights().mtp_source, "");
    const auto own = MtpHeads::LoadOwn(model.base());
    EXPECT_LT(Furthest(Logits(model, *own).view, golden["mtp"][0]), 1e-4);
    EXPECT_GT(Furthest(Logits(model, *own).view, golden["mtp"][1]), 1e-2) << "the comparison sees nothing";
  }
}

TEST_F(OwnModule, InAGgufFileThereAndBack) {
  // What the file stores exactly.
  module_->VisitParams([](Parameter& p) {
    OwnedTensor rounded(DType::kBF16, {p.value.size()});
    Quantize(DType::kBF16, p.value.f32(), rounded.view.data, p.value.size());
    Dequantize(DType::kBF16, rounded.view.data, p.value.f32(), p.value.size());
  });
  module_->AfterUpdate();
  const std::string base = directory_ + "/base.gguf", out = directory_ + "/out.gguf", converted = directory_ + "/dir.gguf";
  ConvertToGguf(kBase, base);
  dynamic_cast<MtpHeads&>(*module_).SaveWithBase(base, out);
  ConvertToGguf(WithModule(true), converted);
  const OwnedTensor want = Logits(model_, *module_), trunk = ExactLogits(model_, {}, tokens_);
  for (const std::string& path : {out, converted}) {
    const GgufFile file(path);
    EXPECT_EQ(file.U64("llama.block_count"), 4u);
    EXPECT_EQ(file.U64("llama.nextn_predict_layers"), 1u);
    for (const char* name : {"eh_proj", "enorm", "hnorm", "shared_head_norm"}) {
      EXPECT_NE(file.FindTensor(std::string("blk.3.nextn.") + name + ".weight"), nullptr) << name;
    }
    Transformer model(LoadWeights(pool_, path), pool_);
    EXPECT_EQ(model.config().layers, 3);
    EXPECT_EQ(Compare(ExactLogits(model, {}, tokens_).view, trunk.view).largest, 0) << "the trunk is as it was";
    const auto own = MtpHeads::LoadOwn(model.base());
    EXPECT_EQ(Compare(Logits(model, *own).view, want.view).largest, 0);
  }
  EXPECT_EQ(MtpHeads::LoadOwn(std::make_unique<Transformer>(LoadWeights(pool_, out), pool_)->base())->heads()->depths(), 2);
  ConvertToHuggingFace(converted, directory_ + "/back", DType::kF32);
  Transformer back(LoadWeights(pool_, directory_ + "/back"), pool_);
  EXPECT_EQ(back.config().layers, 3);
  EXPECT_EQ(Compare(Logits(back, *MtpHeads::LoadOwn(back.base())).view, want.view).largest, 0);

  // A second module takes the first one's place.
  dynamic_cast<MtpHeads&>(*module_).SaveWithBase(out, directory_ + "/again.gguf");
  EXPECT_EQ(fs::file_size(directory_ + "/again.gguf"), fs::file_size(out));
}

TEST_F(OwnModule, DraftsWithoutAGraftAndChangesNoToken) {
  Transformer model(LoadWeights(pool_, WithModule(false)), pool_);
  const Tokenizer tokenizer = TinyTokenizer();
  KvCache kv(model.config(), DType::kF16, 256);
  const auto answer = [&](std::shared_ptr<DrafterSet> drafters) {
    DecodeRequest request;
    request.drafters = std::move(drafters);
    request.prompt = tokens_;
    request.max_tokens = 40;
    request.context = 128;
    return Answer(model, kv, request);
  };
  const std::vector<int32_t> plain = answer(nullptr).tokens;
  const DrafterTarget target = {model, kv, tokenizer, Compute::kInt8, 128, {}};
  for (const std::vector<std::string>& asked : {std::vector<std::string>{"mtp"}, std::vector<std::string>{}}) {
    EXPECT_EQ(answer(DraftersOf(MakeDrafters(asked, target))).tokens, plain);
  }
  const auto entry = std::ranges::find_if(DrafterList(), [](const auto& e) { return e.name == std::string("mtp"); });
  const DecodeResult drafted = answer(DraftersOf(entry->make({"mtp", {}}, target), false));
  EXPECT_EQ(drafted.tokens, plain);
  EXPECT_GT(drafted.counters.num_draft_tokens, 0);
  Refused("--draft mtp: path=DIR is missing", [&] {
    MakeDrafters({"mtp"}, {model_, kv, tokenizer, Compute::kInt8, 128, {}});
  });
}

TEST_F(OwnModule, WhatIsWrongIsNamed) {
  const std::string base = directory_ + "/base.gguf", out = directory_ + "/out.gguf";
  ConvertToGguf(kBase, base);
  GraftOptions options;
  options.parallel = true;
  const auto parallel = MakeGraft("mtp", options, model_.base());
  Refused("not for parallel heads", [&] { dynamic_cast<MtpHeads&>(*parallel).SaveWithBase(base, out); });
  const GgufFile file(base);
  GgufWriter writer;
  for (const auto& [key, value] : file.metadata()) writer.Set(key, value);
  writer.Set("llama.nextn_predict_layers", uint32_t{3});
  for (const NamedTensor& tensor : file.tensors()) writer.AddTensor(tensor.name, tensor.view);
  writer.Write(out);
  Refused("llama.nextn_predict_layers is 3, llama.block_count is 3", [&] { LoadWeights(pool_, out); });
  GgufWriter lacking;
  for (const auto& [key, value] : file.metadata()) lacking.Set(key, value);
  lacking.Set("llama.block_count", uint32_t{4});
  lacking.Set("llama.nextn_predict_layers", uint32_t{1});
  for (const NamedTensor& tensor : file.tensors()) lacking.AddTensor(tensor.name, tensor.view);
  const OwnedTensor narrow({64, 64});
  lacking.AddTensor("blk.3.nextn.eh_proj.weight", narrow.view);
  for (const char* name : {"enorm", "hnorm"}) lacking.AddTensor(std::string("blk.3.nextn.") + name + ".weight", narrow.view.Rows(0, 1));
  lacking.Write(out);
  Transformer model(LoadWeights(pool_, out), pool_);
  Refused("tensor blk.3.nextn.eh_proj.weight is [64, 64], this base wants [64, 128]", [&] { MtpHeads::LoadOwn(model.base()); });
}

}  // namespace
}  // namespace cambium
