// What files say comes back when they are written again, and numbers are never narrowed on the way.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <functional>

#include "cambium/warning.h"
#include "file_testing.h"
#include "grafts/grafts.h"
#include "io/atomic_file.h"
#include "families/convert.h"
#include "families/gguf_config.h"
#include "io/dialogue.h"
#include "io/gguf.h"
#include "io/gguf_writer.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "io/tokenizer_files.h"
#include "tiny_model.h"
#include "train/checkpoint.h"

namespace cambium {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::ExpectError;
using testing::ReadFile;
using testing::WriteFile;

const std::string kGolden = std::string(CAMBIUM_TEST_DIR) + "/golden/";

json ReadJson(const std::string& path) { return ParseJson(ReadTextFile(path), path); }
void Change(const std::string& path, const json& fields) {
  json value = ReadJson(path);
  value.update(fields);
  WriteFile(path, value.dump());
}

class KeptFields : public ::testing::Test {
 protected:
  std::string Saved(const char* kind) {
    GraftOptions options;
    options.rank = 2;
    options.length = 3;
    options.init_ids = {1, 2};
    options.reduction = 8;
    const std::string path = folder_ / kind;
    MakeGraft(kind, options, model_.base())->Save(path);
    return path;
  }
  // Replaces the tensors of a safetensors file by what `make` makes of each; none where it gives none.
  void Rewrite(const std::string& path, const std::function<OwnedTensor(const NamedTensor&)>& make) {
    const std::string bytes = ReadFile(path);
    const SafetensorsFile whole("whole", {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
    std::vector<OwnedTensor> memory;
    std::vector<TensorToWrite> tensors;
    for (const NamedTensor& tensor : whole.tensors()) {
      memory.push_back(make(tensor));
      if (memory.back().view) tensors.push_back({.name = tensor.name, .view = memory.back().view});
    }
    WriteSafetensors(path, std::move(tensors));
  }

  const TempFolder folder_;
  ThreadPool pool_{1};
  Transformer model_{TinyModel(pool_, 11, {.layers = 3}), pool_};
};

OwnedTensor Copy(const NamedTensor& tensor, DType type) {
  OwnedTensor copy = tensor.shape.size() == 1 ? OwnedTensor(type, {tensor.shape[0]})
                                              : OwnedTensor(type, {tensor.shape[0], tensor.shape[1]});
  if (type == DType::kF32) std::copy_n(tensor.view.f32(), tensor.view.size(), copy.view.f32());
  return copy;
}

TEST_F(KeptFields, Ia3OnSomeLayersStaysOnThem) {
  const std::string path = Saved("ia3"), again = folder_ / "again";
  Rewrite(path + "/adapter_model.safetensors", [](const NamedTensor& tensor) {
    const bool gone = tensor.name.find("layers.1.") != std::string::npos;
    OwnedTensor copy = gone ? OwnedTensor() : Copy(tensor, DType::kF32);
    if (copy.view) copy.view.f32()[0] = 1.5f;
    return copy;
  });
  LoadGraft(path, model_.base())->Save(again);
  const SafetensorsFile before(path + "/adapter_model.safetensors"), after(again + "/adapter_model.safetensors");
  ASSERT_EQ(before.tensors().size(), after.tensors().size());
  for (const NamedTensor& tensor : before.tensors()) {
    const Tensor* const found = after.FindTensor(tensor.name);
    ASSERT_NE(found, nullptr) << tensor.name;
    EXPECT_TRUE(std::equal(found->f32(), found->f32() + found->size(), tensor.view.f32())) << tensor.name;
  }
  // PEFT's IA3 knows no layers_to_transform: it reads whole names, and finds no module of layer 1 among them.
  for (const char* field : {"target_modules", "feedforward_modules"}) {
    const json names = ReadJson(again + "/adapter_config.json")[field];
    ASSERT_FALSE(names.empty()) << field;
    for (const json& name : names) {
      EXPECT_TRUE(name.get<std::string>().starts_with("model.layers.0.") ||
                  name.get<std::string>().starts_with("model.layers.2."))
          << name;
    }
  }
}

TEST_F(KeptFields, PeftsTaskTypeComesBack) {
  for (const char* kind : {"lora", "ia3", "prefix", "prompt"}) {
    SCOPED_TRACE(kind);
    const std::string path = Saved(kind), again = folder_ / "again";
    EXPECT_EQ(ReadJson(path + "/adapter_config.json")["task_type"], "CAUSAL_LM");
    Change(path + "/adapter_config.json", {{"task_type", "FEATURE_EXTRACTION"}});
    LoadGraft(path, model_.base())->Save(again);
    EXPECT_EQ(ReadJson(again + "/adapter_config.json")["task_type"], "FEATURE_EXTRACTION");
    Change(path + "/adapter_config.json", {{"task_type", 3}});
    ExpectError(ErrorCode::kData, {"adapter_config.json"}, [&] { LoadGraft(path, model_.base()); });
  }
}

TEST_F(KeptFields, IntegersAreNoWeightsInAnyAdapter) {
  for (const auto& [kind, file] :
       {std::pair{"ia3", "adapter_model.safetensors"}, std::pair{"prefix", "adapter_model.safetensors"},
        std::pair{"prompt", "adapter_model.safetensors"}, std::pair{"adapter", "adapter.safetensors"},
        std::pair{"medusa", "medusa_lm_head.safetensors"}}) {
    SCOPED_TRACE(kind);
    const std::string path = Saved(kind);
    EXPECT_NO_THROW(LoadGraft(path, model_.base()));
    for (const DType type : {DType::kI32, DType::kI64}) {
      Rewrite(path + "/" + file, [&](const NamedTensor& tensor) { return Copy(tensor, type); });
      ExpectError(ErrorCode::kData, {file, Info(type).name, "integers"}, [&] { LoadGraft(path, model_.base()); });
    }
  }
}

TEST_F(KeptFields, AdaptersNumbersAreNotNarrowed) {
  const std::string heads = Saved("medusa"), file = heads + "/heads.json";
  const json good = ReadJson(file);
  const auto refused = [&](const char* field, const json& value, std::initializer_list<std::string_view> parts) {
    WriteFile(file, good.dump());
    Change(file, {{field, value}});
    ExpectError(ErrorCode::kData, parts, [&] { LoadGraft(heads, model_.base()); });
  };
  refused("end_tokens", {1.5}, {"heads.json", "end_tokens", "1.5"});
  refused("draft_tokens", {4294967297}, {"heads.json", "draft_tokens", "4294967297"});
  refused("draft_tokens", "all", {"heads.json", "draft_tokens", "\"all\""});
  refused("hidden_size", 32.5, {"heads.json", "hidden_size", "32.5"});
  refused("vocab_size", 18446744073709551615u, {"heads.json", "vocab_size", "18446744073709551615"});
  const std::string lora = Saved("lora");
  for (const json& r : {json(2.5), json(0), json("2"), json(true)}) {
    Change(lora + "/adapter_config.json", {{"r", r}});
    ExpectError(ErrorCode::kData, {"adapter_config.json", "\"r\" is " + r.dump()}, [&] { LoadGraft(lora, model_.base()); });
  }
  const std::string prefix = Saved("prefix");
  Change(prefix + "/adapter_config.json", {{"num_virtual_tokens", 3.5}});
  ExpectError(ErrorCode::kData, {"num_virtual_tokens", "3.5"}, [&] { LoadGraft(prefix, model_.base()); });
}

// A model's directory with the golden Qwen2's tokenizer.
std::string Directory(const TempFolder& folder) {
  const std::string path = folder / "model";
  fs::copy(kGolden + "families/llama", path);
  WriteFile(path + "/tokenizer.json", ReadJson(kGolden + "tiny_qwen2.json")["tokenizer"].dump());
  return path;
}

TEST_F(KeptFields, AModelsNumbersAreNotNarrowed) {
  const std::string path = Directory(folder_);
  const auto tokenizer = [&] { return Tokenizer::FromJsonFile(path + "/tokenizer.json"); };
  for (const json& id : {json(2.5), json("2"), json({1, 1e3}), json(18446744073709551615u)}) {
    WriteFile(path + "/generation_config.json", json({{"eos_token_id", id}}).dump());
    ExpectError(ErrorCode::kData, {"tokenizer.json", "eos_token_id"}, tokenizer);
  }
  std::vector<std::string> said;
  SetWarningHandler([&](std::string_view text) { said.emplace_back(text); });
  WriteFile(path + "/generation_config.json", R"({"eos_token_id": [3, 123456789]})");
  const std::vector<int32_t> ends = tokenizer().end_of_generation();
  SetWarningHandler({});
  EXPECT_EQ(std::ranges::count(ends, 3), 1);
  EXPECT_EQ(std::ranges::count(ends, 123456789), 0);
  ASSERT_EQ(said.size(), 1u);
  EXPECT_NE(said[0].find("eos_token_id 123456789"), std::string::npos) << said[0];

  WriteFile(path + "/generation_config.json", R"({"top_k": 2.5})");
  ExpectError(ErrorCode::kData, {"generation_config.json", "top_k is 2.5"},
              [&] {
                GgufWriter writer;
                SetGenerationConfig(writer, path);
              });
  fs::remove(path + "/generation_config.json");
  Change(path + "/config.json", {{"max_position_embeddings", 8589934592}});
  ExpectError(ErrorCode::kData, {"config.json", "max_position_embeddings", "8589934592"},
              [&] { ConvertToGguf(path, folder_ / "m.gguf"); });

  json own = ReadJson(path + "/tokenizer.json");
  const std::string piece = own["model"]["vocab"].begin().key();
  for (const json& id : {json(1.5), json(18446744073709551615u), json(-1), json(nullptr)}) {
    own["model"]["vocab"][piece] = id;
    WriteFile(path + "/tokenizer.json", own.dump());
    ExpectError(ErrorCode::kData, {"tokenizer.json", "id of", id.dump()}, tokenizer);
  }
}

constexpr const char* kPlain = "{% for m in messages %}<{{ m.content }}>{% endfor %}";
constexpr const char* kTools = "{{ tools | length }} tools:{% for m in messages %}<{{ m.content }}>{% endfor %}";

TEST_F(KeptFields, NamedTemplatesComeBackAndToolsChooseTheirs) {
  const std::string path = Directory(folder_);
  const json list = {{{"name", "default"}, {"template", kPlain}},
                     {{"name", "tool_use"}, {"template", kTools}},
                     {{"name", "rag"}, {"template", "{{ documents }}"}}};
  WriteFile(path + "/tokenizer_config.json", json({{"chat_template", list}}).dump());
  const auto check = [](const Tokenizer& tokenizer) {
    EXPECT_EQ(tokenizer.chat_template(), kPlain);
    EXPECT_EQ(tokenizer.NamedTemplate("tool_use"), kTools);
    EXPECT_EQ(tokenizer.NamedTemplate("rag"), "{{ documents }}");
    EXPECT_EQ(tokenizer.NamedTemplate("default"), "");
    const DialogueEncoder dialogues(tokenizer);
    DialogueOptions options;
    const nlohmann::ordered_json messages = {{{"role", "user"}, {"content", "hi"}}};
    EXPECT_EQ(dialogues.Render(messages, options), "<hi>");
    options.tools = {{{"type", "function"}}};
    EXPECT_EQ(dialogues.Render(messages, options), "1 tools:<hi>");
    EXPECT_TRUE(dialogues.Reads("tools", true));
    EXPECT_FALSE(dialogues.Reads("tools", false));
  };
  check(Tokenizer::FromJsonFile(path + "/tokenizer.json"));
  GgufWriter writer;
  WithTokenizerJson(path + "/tokenizer.json", [&](const TokenizerSpec& spec) {
    SetTokenizer(writer, spec, static_cast<int64_t>(spec.pieces.size()));
  });
  writer.Write(folder_ / "m.gguf");
  const GgufFile file(folder_ / "m.gguf");
  check(Tokenizer::FromGguf(file));
  const auto names = file.Strings("tokenizer.chat_templates");
  EXPECT_EQ(std::vector<std::string>(names.begin(), names.end()), (std::vector<std::string>{"tool_use", "rag"}));
  EXPECT_EQ(file.Str("tokenizer.chat_template.tool_use"), kTools);
  fs::create_directory(folder_ / "back");
  WriteTokenizerJson(TokenizerSpecFromGguf(file), folder_ / "back");
  check(Tokenizer::FromJsonFile(folder_ / "back/tokenizer.json"));
  EXPECT_EQ(ReadJson(folder_ / "back/tokenizer_config.json")["chat_template"], list);

  // transformers 5 writes them as files.
  fs::remove(path + "/tokenizer_config.json");
  WriteFile(path + "/chat_template.jinja", kPlain);
  WriteFile(path + "/additional_chat_templates/tool_use.jinja", kTools);
  WriteFile(path + "/additional_chat_templates/rag.jinja", "{{ documents }}");
  check(Tokenizer::FromJsonFile(path + "/tokenizer.json"));
  CopyModelFiles(path, folder_ / "back");
  EXPECT_EQ(ReadFile(folder_ / "back/additional_chat_templates/tool_use.jinja"), kTools);

  WriteFile(path + "/tokenizer_config.json", R"({"chat_template": [{"name": "default"}]})");
  ExpectError(ErrorCode::kData, {"chat_template", "lacks"}, [&] { Tokenizer::FromJsonFile(path + "/tokenizer.json"); });
}

TEST_F(KeptFields, ToolsWithoutAPlaceAreRefused) {
  const std::string path = Directory(folder_);
  WriteFile(path + "/tokenizer_config.json", json({{"chat_template", kPlain}}).dump());
  const Tokenizer tokenizer = Tokenizer::FromJsonFile(path + "/tokenizer.json");
  DialogueOptions options;
  const nlohmann::ordered_json messages = {{{"role", "user"}, {"content", "hi"}}};
  options.tools = nlohmann::ordered_json::array();
  EXPECT_EQ(DialogueEncoder(tokenizer).Render(messages, options), "<hi>");
  options.tools = {{{"type", "function"}}};
  ExpectError(ErrorCode::kUsage, {"tools", "does not read"},
              [&] { DialogueEncoder(tokenizer).Render(messages, options); });
}

TEST_F(KeptFields, DirectoriesAndLinksAreReplacedInOneStep) {
  const std::string made = folder_ / "made", path = folder_ / "path";
  WriteFile(made + "/a", "first");
  ReplaceDirectory(made, path);
  EXPECT_EQ(ReadFile(path + "/a"), "first");
  WriteFile(made + "/b", "second");
  ReplaceDirectory(made, path);
  EXPECT_EQ(ReadFile(path + "/b"), "second");
  EXPECT_FALSE(fs::exists(path + "/a"));
  EXPECT_FALSE(fs::exists(made));
  ExpectError(ErrorCode::kResource, {path}, [&] { ReplaceDirectory(made, path); });
  EXPECT_EQ(ReadFile(path + "/b"), "second") << "what was there stays where the new one is missing";

  const std::string link = folder_ / "link";
  ReplaceLink("one", link);
  ReplaceLink("two", link);
  EXPECT_EQ(fs::read_symlink(link), "two");
  ExpectError(ErrorCode::kResource, {path}, [&] { ReplaceLink("three", path); });  // a directory is no link's place
  EXPECT_EQ(ReadFile(path + "/b"), "second");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_.path()), {}), 2) << "nothing is left beside them";
}

TEST_F(KeptFields, AStepSavedTwiceIsTheSecond) {
  const CheckpointStore reader(folder_ / "checkpoints", 3);
  CheckpointStore store(folder_ / "checkpoints", 3);
  const OwnedTensor one({2}), two({3});
  const auto save = [&](const OwnedTensor& tensor, int number) {
    std::vector<TensorToWrite> tensors;
    tensors.push_back({.name = "t", .view = tensor.view});
    store.Save(7, {{"number", number}}, std::move(tensors));
  };
  save(one, 1);
  save(two, 2);
  std::vector<std::string> skipped;
  const auto loaded = reader.LoadNewest(skipped);
  ASSERT_TRUE(loaded.has_value());
  EXPECT_EQ(loaded->state["number"], 2);
  EXPECT_EQ(loaded->tensors->FindTensor("t")->size(), 3);
  EXPECT_EQ(store.Steps(), std::vector<int64_t>{7});
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_ / "checkpoints"), {}), 2) << "step-7 and latest";
}

}  // namespace
}  // namespace cambium
