#include <fmt/format.h>

#include <atomic>
#include <cmath>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>

#include "base/parallel.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "cli/verbs.h"
#include "grafts/adapter_config.h"
#include "grafts/describe.h"
#include "io/gguf.h"
#include "io/json.h"
#include "io/model_cache.h"
#include "io/safetensors.h"
#include "tensor/quantize.h"

namespace cambium::cli {
namespace {

using nlohmann::ordered_json;

struct Flags {
  OutputFlags output;
  std::string path;
  bool check = false, tensors = false, metadata = false;
};

// What there is to show of a model, whatever its format.
struct Contents {
  std::string format;
  ordered_json metadata = ordered_json::object();
  std::vector<NamedTensor> tensors;
  std::optional<GgufFile> gguf;  // keep the tensors' memory
  std::optional<ShardedSafetensors> safetensors;
};

constexpr uint64_t kMostListed = 8;  // values of an array that are printed

ordered_json ValueToJson(const GgufFile& file, const std::string& key, const GgufValue& value) {
  if (value.type == GgufType::kArray && value.count > kMostListed) {
    return {{"type", Name(value.element)}, {"count", value.count}};
  }
  auto list = ordered_json::array();
  switch (value.element) {
    case GgufType::kString:
      for (std::string_view text : file.Strings(key)) list.push_back(std::string(text));
      break;
    case GgufType::kF32:
    case GgufType::kF64:
      if (value.type != GgufType::kArray) return file.F64(key);
      for (float number : file.Floats(key)) list.push_back(number);
      break;
    case GgufType::kBool:
      for (int64_t bit : file.Ints(key)) list.push_back(bit != 0);
      break;
    case GgufType::kU64:
      if (value.type != GgufType::kArray) return file.U64(key);
      [[fallthrough]];
    default:
      for (int64_t integer : file.Ints(key)) list.push_back(integer);
  }
  return value.type == GgufType::kArray ? list : list[0];
}

Contents Open(const std::string& path, const ordered_json& adapter) {
  Contents contents;
  if (const std::optional<AdapterConfig> config = AdapterConfig::Read(path)) {
    contents.metadata["adapter_config"] = ParseOrderedJson(ReadTextFile(config->path()), config->path());
    contents.format = adapter["dialect"].get<std::string>() + " adapter";
    contents.safetensors.emplace(config->WeightsPath());
    contents.tensors = contents.safetensors->tensors();
    return contents;
  }
  if (path.ends_with(".safetensors") || std::filesystem::is_directory(path)) {
    contents.safetensors.emplace(path);
    contents.format = "safetensors";
    contents.tensors = contents.safetensors->tensors();
    for (const SafetensorsFile& file : contents.safetensors->files()) {
      for (const auto& [key, value] : file.metadata()) contents.metadata[key] = value;
    }
    const std::string config = path + "/config.json";
    if (std::filesystem::exists(config)) contents.metadata["config"] = ParseOrderedJson(ReadTextFile(config), config);
    return contents;
  }
  contents.gguf.emplace(path);
  contents.format = fmt::format("GGUF v{}", contents.gguf->version());
  if (contents.gguf->parts() > 1) contents.format += fmt::format(", {} parts", contents.gguf->parts());
  if (contents.gguf->Str("general.type", "model") == "adapter") {
    contents.format += ", " + contents.gguf->Str("adapter.type", "unknown") + " adapter";
  }
  contents.tensors = contents.gguf->tensors();
  for (const auto& [key, value] : contents.gguf->metadata()) {
    contents.metadata[key] = ValueToJson(*contents.gguf, key, value);
  }
  return contents;
}

struct NonFinite {
  int64_t nan = 0, inf = 0;
};

NonFinite CountNonFinite(ThreadPool& pool, const Tensor& tensor) {
  if (tensor.size() == 0) return {};
  std::atomic<int64_t> nan{0}, inf{0};
  const int64_t step = std::max<int64_t>(1, 65536 / tensor.columns());  // rows a task decodes
  pool.Run((tensor.rows() + step - 1) / step, [&](int64_t task, int) {
    std::vector<float> row(static_cast<size_t>(tensor.columns()));
    for (int64_t r = task * step; r < std::min(tensor.rows(), (task + 1) * step); ++r) {
      Dequantize(tensor.dtype, tensor.as<uint8_t>() + r * tensor.row_bytes(), row.data(), tensor.columns());
      for (float value : row) {
        if (std::isnan(value)) ++nan;
        if (std::isinf(value)) ++inf;
      }
    }
  });
  return {nan, inf};
}

std::string ShapeText(const std::vector<int64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

// The first of the keys that the metadata has, of which "*" stands for the architecture.
std::string Known(const Contents& contents, std::initializer_list<const char*> keys) {
  const ordered_json config = contents.metadata.value("config", ordered_json::object());
  const std::string architecture = contents.metadata.value("general.architecture", std::string());
  for (std::string key : keys) {
    if (key.starts_with("*")) key.replace(0, 1, architecture);
    for (const ordered_json* const from : {&contents.metadata, &config}) {
      if (const auto found = from->find(key); found != from->end()) return ShownJson(*found, 60);
    }
  }
  return "";
}

// What the file is, in a few lines: of a model its sizes, of an adapter what it says of itself.
std::string Summary(const Contents& contents, const ordered_json& about) {
  constexpr size_t kMostLines = 7;
  std::string text;
  if (!about.is_null()) {
    size_t lines = 0;
    for (const auto& [key, value] : about.items()) {
      if (++lines <= kMostLines) text += fmt::format("{:<12} {}\n", key, ShownJson(value, 100));
    }
    return text;
  }
  const auto line = [&](const char* name, const std::string& value) {
    if (!value.empty()) text += fmt::format("{:<12} {}\n", name, value);
  };
  line("name", Known(contents, {"general.name", "_name_or_path"}));
  line("family", Known(contents, {"general.architecture", "model_type"}));
  const std::string layers = Known(contents, {"*.block_count", "num_hidden_layers", "n_layer"});
  const std::string hidden = Known(contents, {"*.embedding_length", "hidden_size", "n_embd"});
  if (!layers.empty()) line("size", layers + " layers of " + hidden);
  line("context", Known(contents, {"*.context_length", "max_position_embeddings", "n_positions"}));
  line("tokenizer", Known(contents, {"tokenizer.ggml.model"}));
  const bool chats = contents.metadata.contains("tokenizer.chat_template");
  if (contents.gguf) line("chat", chats ? "has a template: --chat" : "has no template");
  return text;
}

std::string MetadataText(const Contents& contents) {
  std::string text = "\n";
  for (const auto& [key, value] : contents.metadata.items()) {
    text += fmt::format("{:<45} {}\n", key, ShownJson(value, 100));
  }
  return text;
}

// A line for each tensor, or for those with values that are not finite.
std::string TensorsText(const ordered_json& tensors, bool bad_alone) {
  std::string text = "\n";
  for (const ordered_json& tensor : tensors) {
    const bool bad = tensor.value("nan", 0) + tensor.value("inf", 0) > 0;
    if (bad_alone && !bad) continue;
    text += fmt::format("{:<45} {:<5} {:<20} {:>9}", tensor["name"].get<std::string>(),
                        tensor["type"].get<std::string>(), ShapeText(tensor["shape"]), HumanBytes(tensor["bytes"]));
    if (bad) text += fmt::format("  {} NaN, {} Inf", tensor["nan"].get<int64_t>(), tensor["inf"].get<int64_t>());
    text += '\n';
  }
  return text;
}

void Inspect(const Flags& flags) {
  const bool adapter = std::filesystem::exists(flags.path + "/adapter_config.json");
  const std::string path = adapter ? flags.path : ResolveModel(flags.path);
  const ordered_json about = DescribeAdapter(path);
  const Contents contents = Open(path, about);
  std::map<std::string_view, std::pair<int64_t, uint64_t>> types;  // name -> tensors, bytes
  uint64_t bytes = 0;
  int64_t values = 0;
  auto tensors = ordered_json::array();
  NonFinite sum;
  std::string damaged;  // tensors with NaN or Inf
  ThreadPool pool(DefaultThreads());
  {
    ProgressBar bar(flags.output.quiet || !flags.check);
    for (const NamedTensor& tensor : contents.tensors) {
      bytes += tensor.bytes;
      int64_t size = 1;
      for (int64_t extent : tensor.shape) size *= extent;
      values += size;
      types[tensor.type].first += 1;
      types[tensor.type].second += tensor.bytes;
      ordered_json entry = {{"name", tensor.name},
                            {"type", tensor.type},
                            {"shape", tensor.shape},
                            {"offset", tensor.offset},
                            {"bytes", tensor.bytes}};
      if (flags.check && tensor.view) {
        const NonFinite found = CountNonFinite(pool, tensor.view);
        entry["nan"] = found.nan;
        entry["inf"] = found.inf;
        sum.nan += found.nan;
        sum.inf += found.inf;
        if (found.nan + found.inf > 0) damaged += (damaged.empty() ? "" : ", ") + tensor.name;
        bar.Update("checking", tensor.offset + tensor.bytes, std::max(tensor.offset + tensor.bytes, bytes));
      }
      tensors.push_back(std::move(entry));
    }
  }
  if (contents.gguf) contents.gguf->CheckIntact();
  if (contents.safetensors) contents.safetensors->CheckIntact();

  if (flags.output.json) {
    ordered_json out = {{"path", path},   {"format", contents.format},     {"values", values},
                        {"bytes", bytes}, {"metadata", contents.metadata}, {"tensors", tensors}};
    if (!about.is_null()) out["adapter"] = about;
    if (flags.check) out["check"] = {{"nan", sum.nan}, {"inf", sum.inf}};
    WriteJson(out);
  } else {
    std::string text = fmt::format("{}\n{}, {} tensors, {} values, {}\n", path, contents.format,
                                   contents.tensors.size(), values, HumanBytes(bytes));
    text += Summary(contents, about);
    text += "types       ";
    for (const auto& [name, count] : types) {
      text += fmt::format(" {} x {} ({})", count.first, name, HumanBytes(count.second));
    }
    text += '\n';
    if (flags.metadata) text += MetadataText(contents);
    if (flags.tensors || sum.nan + sum.inf > 0) text += TensorsText(tensors, !flags.tensors);
    if (flags.check && damaged.empty()) text += "all values are finite\n";
    Write(text);
    const bool more = !flags.tensors && !flags.metadata && !flags.check;
    if (more) Next(flags.output, "cambium inspect " + Word(flags.path) + " --tensors (or --metadata, --check)");
  }
  if (!damaged.empty()) {
    Fail(ErrorCode::kData, path, ": ", sum.nan, " NaN and ", sum.inf, " Inf values in ", damaged);
  }
}

}  // namespace

void AddInspect(CLI::App& app) {
  CLI::App* const verb = app.add_subcommand("inspect", "Say what a model or adapter file is");
  const auto flags = std::make_shared<Flags>();
  verb->add_option("MODEL,-m,--model", flags->path, "A .gguf or .safetensors file, a model directory, or a cached name")
      ->required();
  verb->add_flag("--check", flags->check, "Read every weight; NaN or infinite ones are an error");
  verb->add_flag("--tensors", flags->tensors, "List every tensor");
  verb->add_flag("--metadata", flags->metadata, "List all metadata");
  AddOutput(*verb, flags->output);
  verb->callback([flags] { Inspect(*flags); });
}

}  // namespace cambium::cli
