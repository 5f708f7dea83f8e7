#include "grafts/merge.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>

#include "io/atomic_file.h"
#include "families/convert.h"
#include "io/gguf.h"
#include "io/gguf_writer.h"
#include "families/hf_config.h"
#include "io/json.h"
#include "io/quantize_model.h"
#include "model/load.h"
#include "tensor/quantize.h"

namespace cambium {
namespace {

namespace fs = std::filesystem;

// The linears behind each GGUF tensor: one, or several, whose rows follow one another.
std::map<std::string, std::vector<Site>> SitesByTensor(const ModelWeights& weights) {
  std::map<std::string, std::vector<Site>> sites;
  for (const Site site : weights.sites()) {
    sites[LinearStem(weights.config, Dialect::kGguf, site) + ".weight"].push_back(site);
  }
  return sites;
}

// The tensor's values with the grafts added, in the file's order of rows.
OwnedTensor MergedValues(const BaseModel& model, std::span<Graft* const> grafts, const std::vector<Site>& sites) {
  const TensorNames names = NamesOf(model.config(), Dialect::kGguf);
  const auto base = [&](Site site) -> const PackedMatrix& { return model.weights().At(site).w; };
  const int64_t in = base(sites[0]).in();
  OwnedTensor all({PlaceOf(model.config(), names, sites[0]).all, in});
  for (const Site site : sites) {
    const PackedMatrix& w = base(site);
    OwnedTensor values({w.out(), w.in()});
    w.Unpack(model.pool(), values.view);
    for (Graft* graft : grafts) {
      if (graft->ActsAt(site)) graft->MergeInto(site, values.view);
    }
    const LinearPlace place = PlaceOf(model.config(), names, site);
    for (int64_t o = 0; o < w.out(); ++o) {
      std::memcpy(all.view.row(place.rows[static_cast<size_t>(o)]), values.view.row(o),
                  static_cast<size_t>(in) * sizeof(float));
    }
  }
  return all;
}

OwnedTensor WholeValues(std::span<Graft* const> grafts, const std::string& name) {
  OwnedTensor values;
  for (const Graft* graft : grafts) {
    OwnedTensor own = graft->MergedWhole(name);
    if (!own.view) continue;
    if (values.view) Fail(ErrorCode::kUsage, "two grafts replace the tensor ", name, ": merge one of them");
    values = std::move(own);
  }
  return values;
}

// `in` with merged matrices in the type that `target` gives for their own.
void MergeGguf(const BaseModel& model, std::span<Graft* const> grafts, const std::string& in, const std::string& out,
               const std::function<DType(DType)>& target, const MergeProgress& progress) {
  const GgufFile file(in);
  const auto sites = SitesByTensor(model.weights());
  GgufWriter writer;
  for (const auto& [key, value] : file.metadata()) writer.Set(key, value);
  for (const NamedTensor& tensor : file.tensors()) {
    const Tensor view = *file.FindTensor(tensor.name);
    const auto found = sites.find(tensor.name);
    const bool touched = found != sites.end() && std::any_of(found->second.begin(), found->second.end(), [&](Site site) {
      return std::any_of(grafts.begin(), grafts.end(), [&](const Graft* graft) { return graft->ActsAt(site); });
    });
    if (const auto whole = std::make_shared<OwnedTensor>(WholeValues(grafts, tensor.name)); whole->view) {
      const DType dtype = target(view.dtype);
      const int64_t columns = whole->view.columns(), row_bytes = columns / Info(dtype).block * Info(dtype).bytes;
      if (whole->view.size() != view.size()) {
        Fail(ErrorCode::kData, file.path(), ": tensor ", tensor.name, " has ", view.size(), " values, the graft's ",
             whole->view.size());
      }
      writer.AddTensor(tensor.name, dtype, tensor.shape, [=, &model](int64_t row, int64_t rows, uint8_t* dst) {
        model.pool().Run(rows, [&](int64_t r, int) {
          Quantize(dtype, whole->view.row(row + r), dst + r * row_bytes, columns);
        });
      });
      continue;
    }
    if (!touched) {
      writer.AddTensor(tensor.name, view);
      continue;
    }
    const DType dtype = target(view.dtype);
    const auto values = std::make_shared<OwnedTensor>();
    const int64_t columns = view.columns(), all = view.rows();
    const int64_t row_bytes = columns / Info(dtype).block * Info(dtype).bytes;
    writer.AddTensor(tensor.name, dtype, tensor.shape, [=, &model, &file](int64_t row, int64_t rows, uint8_t* dst) {
      if (row == 0) *values = MergedValues(model, grafts, found->second);
      std::atomic<bool> finite{true};
      model.pool().Run(rows, [&](int64_t r, int) {
        const float* const from = values->view.row(row + r);
        if (!std::all_of(from, from + columns, [](float v) { return std::isfinite(v); })) finite = false;
        Quantize(dtype, from, dst + r * row_bytes, columns);
      });
      if (!finite) Fail(ErrorCode::kData, file.path(), ": tensor ", tensor.name, " holds NaN or Inf once merged");
      if (row + rows == all) *values = OwnedTensor();
      file.Evict(view, row, rows);
    });
  }
  writer.Write(out, [&](uint64_t done, uint64_t total) {
    file.CheckIntact();
    if (progress) progress(done, total);
  });
}

}  // namespace

void WriteMerged(const BaseModel& model, std::span<Graft* const> grafts, const std::string& base, const std::string& out,
                 std::optional<DType> type, const MergeProgress& progress) {
  for (const Graft* graft : grafts) {
    if (!graft->mergeable()) {
      Fail(ErrorCode::kUsage, "a graft of kind ", graft->kind(), " changes more than matrices and cannot be merged; use --graft");
    }
  }
  const bool to_gguf = out.ends_with(".gguf"), from_gguf = !fs::is_directory(base);
  const ScratchDirectory scratch(out);
  const std::string source = from_gguf ? base : scratch.Path("base.gguf");
  const std::string merged = scratch.Path("merged.gguf"), typed = scratch.Path("typed.gguf");
  if (!from_gguf) ConvertToGguf(base, source, progress, {.only_weights = !to_gguf});
  if (type && !to_gguf && IsQuantized(*type)) {
    Fail(ErrorCode::kUsage, "--type ", Info(*type).name, ": a Hugging Face directory holds F32, F16 or BF16");
  }
  const auto target = [&](DType own) {
    if (type || (!to_gguf && IsQuantized(own))) return DType::kF32;
    return CanQuantize(own) ? own : DType::kQ8_0;
  };
  const bool direct = to_gguf && !type;
  MergeGguf(model, grafts, source, direct ? out : merged, target, progress);
  if (direct) return;
  if (type) QuantizeModel(model.pool(), merged, to_gguf ? out : typed, *type, true, progress);
  if (to_gguf) return;
  ConvertToHuggingFace(type ? typed : merged, out, type.value_or(DType::kF32), progress);
  if (from_gguf) return;
  CopyModelFiles(base, out);
  nlohmann::json config = HfTextConfig(ParseJson(ReadTextFile(base + "/config.json"), base + "/config.json"), base);
  const nlohmann::json made = ParseJson(ReadTextFile(out + "/config.json"), out + "/config.json");
  config[config.contains("dtype") ? "dtype" : "torch_dtype"] = made["torch_dtype"];
  AtomicFile file(out + "/config.json");
  file.Write(config.dump(2) + "\n");
  file.Commit();
}

OwnedTensor ExactLogits(Transformer& model, std::span<Graft* const> grafts, std::span<const int32_t> ids) {
  constexpr int64_t kChunk = 64;
  KvCache kv(model.config(), DType::kF32, static_cast<int64_t>(ids.size()) + kChunk);
  const KvCache::Id sequence = kv.Open();
  OwnedTensor logits({static_cast<int64_t>(ids.size()), model.config().vocab});
  for (int64_t begin = 0; begin < logits.view.rows(); begin += kChunk) {
    const int64_t count = std::min(kChunk, logits.view.rows() - begin);
    Pass pass;
    pass.compute = Compute::kF32;
    pass.kv = &kv;
    pass.Append(sequence, begin, ids.subspan(static_cast<size_t>(begin), static_cast<size_t>(count))).grafts = grafts;
    for (int32_t i = 0; i < count; ++i) pass.logit_rows.push_back(i);
    model.Forward(pass);
    std::copy_n(pass.result.logits.f32(), pass.result.logits.size(), logits.view.row(begin));
    CommitAll(pass);
  }
  return logits;
}

LogitDifference Compare(Tensor a, Tensor b) {
  Check(a.size() == b.size(), "logits of one text and vocabulary");
  LogitDifference difference;
  for (int64_t i = 0; i < a.size(); ++i) {
    const double d = double{a.f32()[i]} - double{b.f32()[i]};
    const double size = std::isnan(d) ? INFINITY : std::fabs(d);
    difference.largest = std::max(difference.largest, size);
    difference.rms += size * size;
  }
  difference.rms = std::sqrt(difference.rms / static_cast<double>(a.size()));
  return difference;
}

}  // namespace cambium
