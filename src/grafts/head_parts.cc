#include "grafts/head_parts.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "cambium/error.h"
#include "io/atomic_file.h"
#include "io/json.h"
#include "tensor/quantize.h"

namespace cambium {

PackedMatrix PackRows(ThreadPool& pool, Tensor rows, bool eight_bit) {
  if (!eight_bit || rows.columns() % Info(DType::kQ8_0).block != 0) return PackedMatrix(pool, rows);
  const OwnedTensor stored(DType::kQ8_0, {rows.rows(), rows.columns()});
  pool.Run(rows.rows(), [&](int64_t row, int) {
    Quantize(DType::kQ8_0, rows.row(row), stored.view.as<uint8_t>() + row * stored.view.row_bytes(), rows.columns());
  });
  return PackedMatrix(pool, stored.view);
}

DraftReadout::DraftReadout(const BaseModel& model, std::vector<int32_t> ids, std::span<const int32_t> end_tokens,
                           const std::string& what)
    : model_(model), ids_(std::move(ids)) {
  if (ids_.empty()) return;
  const PackedMatrix& head = model.weights().head();
  for (size_t i = 0; i < ids_.size(); ++i) {
    if (ids_[i] < 0 || ids_[i] >= head.out()) {
      Fail(ErrorCode::kData, what, ": draft token ", ids_[i], " is outside the base's vocabulary of ", head.out());
    }
    if (i > 0 && ids_[i] <= ids_[i - 1]) {
      Fail(ErrorCode::kData, what, ": draft token ", ids_[i], " comes after ", ids_[i - 1], "; they must ascend");
    }
  }
  for (const int32_t end : end_tokens) {
    if (!std::binary_search(ids_.begin(), ids_.end(), end)) {
      Fail(ErrorCode::kData, what, ": the draft vocabulary of ", ids_.size(), " tokens lacks the end token ", end);
    }
  }
  OwnedTensor rows({static_cast<int64_t>(ids_.size()), head.in()});
  model.pool().Run(rows.view.rows(),
                   [&](int64_t row, int) { head.UnpackRow(ids_[static_cast<size_t>(row)], rows.view.row(row)); });
  rows_ = PackRows(model.pool(), rows.view, IsQuantized(head.dtype()));
}

TrainedMatrix::TrainedMatrix(std::string name, int64_t out, int64_t in) : values({out, in}) {
  param.name = std::move(name);
  param.value = values.view;
}

void TrainedMatrix::Pack(ThreadPool& pool, PackedMatrix& packed, bool frozen) const {
  if (!frozen && packed) {
    packed.Repack(pool, param.value);
  } else {
    packed = PackRows(pool, param.value, frozen);
  }
}

void TrainedMatrix::AddGradient(const GraftContext& c, Tensor dy, Tensor x) const {
  if (param.grad) Gemm(c.pool, c.workspace, c.compute, true, false, 1, dy, x, 1, param.grad);
}

TrainedVector::TrainedVector(std::string name, int64_t size, float fill) : values({size}) {
  std::fill_n(values.view.f32(), size, fill);
  param.name = std::move(name);
  param.value = values.view;
  param.decay = false;
}

ResBlock::ResBlock(const std::string& name, int64_t width)
    : weight(name + ".weight", width, width), bias(name + ".bias", width, 0) {}

void ResBlock::Forward(const GraftContext& c, Tensor x, Tensor y) const {
  const Product product[] = {{&packed_, y, bias.param.value.f32()}};
  MatMul(c.pool, c.workspace, c.compute, x, product);
  Activate(c.pool, Activation::kSilu, y, y);
  Add(c.pool, x, y);
}

void ResBlock::Backward(const GraftContext& c, Tensor x, Tensor dy) {
  const Workspace::Mark mark = c.workspace.GetMark();
  Tensor z = c.workspace.New({x.rows(), x.columns()}), dz = c.workspace.New({x.rows(), x.columns()});
  const Product product[] = {{&packed_, z, bias.param.value.f32()}};
  MatMul(c.pool, c.workspace, c.compute, x, product);
  ActivateBackward(c.pool, Activation::kSilu, dy, z, dz);
  weight.AddGradient(c, dz, x);
  if (bias.param.grad) BiasBackward(c.pool, dz, bias.param.grad);
  MatMulBackward(c.pool, c.workspace, c.compute, dz, packed_, dy, true);
  c.workspace.Release(mark);
}

void SaveHeads(Graft& heads, const std::string& directory, const char* weights, const HeadsFile& file) {
  MakeDirectories(directory);
  std::vector<TensorToWrite> tensors;
  heads.VisitParams([&](Parameter& param) { tensors.push_back({.name = param.name, .view = param.value}); });
  WriteSafetensors(directory + weights, std::move(tensors), {{"format", "pt"}});
  nlohmann::ordered_json json = {{"kind", file.kind},
                                 {"base_model_name_or_path", file.base},
                                 {"hidden_size", file.hidden},
                                 {"vocab_size", file.vocab},
                                 {"end_tokens", file.end_tokens},
                                 {"draft_tokens", file.draft_tokens}};
  json.update(file.more);
  AtomicFile out(directory + "/heads.json");
  out.Write(json.dump() + "\n");
  out.Commit();
}

namespace {

std::vector<int32_t> TokensOf(const nlohmann::json& json, const char* field, const std::string& path) {
  const nlohmann::json list = json.value(field, nlohmann::json::array());
  if (!list.is_array()) {
    Fail(ErrorCode::kData, path, ": field ", field, " is ", list.dump(), ", expected a list of tokens");
  }
  std::vector<int32_t> tokens;
  for (const nlohmann::json& id : list) {
    tokens.push_back(static_cast<int32_t>(WholeNumber(id, path + ": field " + field + ": a token", 0, INT32_MAX)));
  }
  return tokens;
}

}  // namespace

HeadsFile ReadHeadsFile(const std::string& directory, const BaseModel& model) {
  HeadsFile file;
  const std::string path = directory + "/heads.json";
  if (!std::filesystem::exists(path)) return file;
  const nlohmann::json json = ParseJson(ReadTextFile(path), path);
  try {
    file.kind = json.at("kind").get<std::string>();
    file.base = json.value("base_model_name_or_path", std::string());
    file.hidden = WholeNumber(json.at("hidden_size"), path + ": field hidden_size", 1, INT32_MAX);
    file.vocab = WholeNumber(json.at("vocab_size"), path + ": field vocab_size", 1, INT32_MAX);
    file.end_tokens = TokensOf(json, "end_tokens", path);
    file.draft_tokens = TokensOf(json, "draft_tokens", path);
    file.more = json;
  } catch (const nlohmann::json::exception& error) {
    Fail(ErrorCode::kData, path, ": ", error.what());
  }
  const auto same = [&](const char* field, int64_t value, int64_t base) {
    if (value != base) Fail(ErrorCode::kData, path, ": field ", field, " is ", value, ", this base has ", base);
  };
  same("hidden_size", file.hidden, model.config().hidden);
  same("vocab_size", file.vocab, model.config().vocab);
  return file;
}

void ReadHeadTensor(const std::string& path, const std::string& name, const Tensor* stored, Tensor into) {
  if (stored == nullptr) Fail(ErrorCode::kData, path, ": tensor ", name, " is missing");
  if (stored->rows() != into.rows() || stored->columns() != into.columns()) {
    Fail(ErrorCode::kData, path, ": tensor ", name, " is [", stored->rows(), ", ", stored->columns(),
         "], this base wants [", into.rows(), ", ", into.columns(), "]; are the heads for another base?");
  }
  Dequantize(stored->dtype, stored->data, into.f32(), into.size());
}

void ReadHeadTensor(const SafetensorsFile& file, const std::string& name, Tensor into) {
  ReadHeadTensor(file.path(), name, file.FindTensor(name), into);
}

}  // namespace cambium
