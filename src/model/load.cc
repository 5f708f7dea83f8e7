#include "model/load.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <vector>

#include "base/limits.h"
#include "tensor/quantize.h"

namespace cambium {
namespace {

// Where a linear's rows stand in the file: rows [begin, begin + out) of `all` in the tensor of a role.
struct Place {
  Role role;
  int64_t begin, out, all, in;
};

Place PlaceOf(const ModelConfig& c, const TensorNames& names, Site site) {
  const SiteKind kind = site.kind;
  const int64_t ffn = site.expert >= 0 ? c.expert_ffn : c.Routes(site.layer) ? c.shared_ffn : c.ffn;
  const int64_t q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
  const int64_t outs[kSiteKinds] = {q, kv, kv, c.hidden, ffn, ffn, c.hidden};
  const int64_t out = outs[static_cast<int>(kind)];
  const int64_t in = kind == SiteKind::kO ? q : kind == SiteKind::kDown ? ffn : c.hidden;
  if (kind <= SiteKind::kV && names.Has(Role::kQkv)) {
    return {Role::kQkv, kind == SiteKind::kQ ? 0 : kind == SiteKind::kK ? q : q + kv, out, q + 2 * kv, in};
  }
  const bool gated = kind == SiteKind::kGate || kind == SiteKind::kUp;
  if (gated && names.Has(Role::kGateUp)) {
    return {Role::kGateUp, kind == SiteKind::kGate ? 0 : ffn, out, 2 * ffn, in};
  }
  const Role role = RoleOf(c, site);
  if (site.expert >= 0 && names.StacksExperts()) return {role, site.expert * out, out, c.experts * out, in};
  return {role, 0, out, out, in};
}

// The file's row of each of ours; empty: the same.
std::vector<int32_t> RowOrder(const ModelConfig& c, const TensorNames& names, Site site) {
  const Role role = RoleOf(c, site);
  if (!names.Has(role) || names.LayoutOf(role) != Layout::kRopePairs) return {};
  return UnpermutedRows(site.kind == SiteKind::kQ ? c.heads : c.kv_heads, c.head_dim);
}

std::string ShapeText(const Tensor& tensor) {
  std::string text = "[";
  for (int i = 0; i < tensor.rank; ++i) text += (i ? ", " : "") + std::to_string(tensor.shape[static_cast<size_t>(i)]);
  return text + "]";
}

class Packer {
 public:
  Packer(ThreadPool& pool, const TensorNames& names, std::shared_ptr<const WeightSource> from)
      : pool_(pool), names_(names), from_(std::move(from)), source_(*from_) {}

  const Tensor* Find(const std::string& name) const { return source_.Find(name); }

  Tensor Need(const std::string& name) const {
    const Tensor* found = source_.Find(name);
    if (found == nullptr) Fail(ErrorCode::kData, source_.path(), ": tensor ", name, " is missing");
    return *found;
  }

  void CheckShape(const std::string& name, const Tensor& tensor, int64_t rows, int64_t columns) const {
    if (tensor.columns() == columns && tensor.rows() == rows) return;
    Fail(ErrorCode::kData, source_.path(), ": tensor ", name, " has shape ", ShapeText(tensor),
         ", the configuration asks for [", rows, ", ", columns, "]");
  }

  OwnedTensor Vector(const std::string& name, int64_t size, float offset = 0.0f) const {
    const Tensor stored = Need(name);
    CheckShape(name, stored, 1, size);
    OwnedTensor vector({size});
    Dequantize(stored.dtype, stored.data, vector.view.f32(), size);
    for (int64_t i = 0; i < size; ++i) vector.view.f32()[i] += offset;
    return vector;
  }

  void CheckBlocks(const std::string& name, const Tensor& stored) const {
    if (!IsQuantized(stored.dtype) || stored.columns() % Info(stored.dtype).block == 0) return;
    Fail(ErrorCode::kData, source_.path(), ": tensor ", name, " of type ", Info(stored.dtype).name, " has ",
         stored.columns(), " columns, not a multiple of ", Info(stored.dtype).block);
  }

  PackedMatrix Matrix(const std::string& name, const Tensor& stored, std::span<const int32_t> order = {}) const {
    CheckBlocks(name, stored);
    struct Context {
      const WeightSource& source;
      const Tensor& tensor;
    } context{source_, stored};
    return PackedMatrix(
        pool_, stored, order,
        [](void* c, int64_t row, int64_t rows) {
          const Context& at = *static_cast<Context*>(c);
          at.source.Evict(at.tensor, row, rows);
        },
        &context);
  }

  Linear LinearAt(int64_t layer, const Place& place, std::span<const int32_t> order) const {
    const std::string name = names_.Weight(place.role, layer), bias_name = names_.Bias(place.role, layer);
    Tensor stored = Need(name);
    Linear linear;
    if (names_.LayoutOf(place.role) == Layout::kTransposed) {
      CheckShape(name, stored, place.in, place.all);
      const OwnedTensor plain = Transposed(stored, place.begin, place.out);
      linear.w = PackedMatrix(pool_, plain.view, order);
    } else {
      CheckShape(name, stored, place.all, place.in);
      linear.w = Matrix(name, stored.Rows(place.begin, place.out), order);
    }
    if (Find(bias_name) != nullptr) {
      const OwnedTensor bias = Vector(bias_name, place.all);
      linear.bias = OwnedTensor({place.out});
      for (int64_t i = 0; i < place.out; ++i) {
        const int64_t row = order.empty() ? i : order[static_cast<size_t>(i)];
        linear.bias.view.f32()[i] = bias.view.f32()[place.begin + row];
      }
    }
    return linear;
  }

  // A layer's router, experts and what gates the shared one; the experts stay in the file until they are used.
  std::unique_ptr<ExpertWeights> Experts(const ModelConfig& c, int layer) const {
    auto experts = std::make_unique<ExpertWeights>();
    experts->router.w = Whole(names_.Weight(Role::kRouter, layer), c.experts, c.hidden);
    if (c.shared_ffn > 0) experts->shared_gate.w = Whole(names_.Weight(Role::kSharedRouter, layer), 1, c.hidden);
    for (int e = 0; e < static_cast<int>(c.experts); ++e) {
      ExpertWeights::Expert& expert = experts->experts.emplace_back();
      for (const SiteKind kind : {SiteKind::kGate, SiteKind::kUp, SiteKind::kDown}) {
        const Place place = PlaceOf(c, names_, {layer, kind, e});
        const std::string name = names_.Weight(place.role, layer, e);
        const Tensor stored = Need(name);
        CheckShape(name, stored, place.all, place.in);
        CheckBlocks(name, stored);
        expert[kind].w = PackedMatrix(from_, stored.Rows(place.begin, place.out));
      }
    }
    return experts;
  }

  NormWeights Norm(const ModelConfig& c, Role role, int64_t layer, int64_t size) const {
    NormWeights norm;
    norm.gain = Vector(names_.Weight(role, layer), size, names_.gain_offset());
    if (c.norm == ModelConfig::Norm::kLayer) norm.bias = Vector(names_.Bias(role, layer), size);
    return norm;
  }

 private:
  PackedMatrix Whole(const std::string& name, int64_t out, int64_t in) const {
    const Tensor stored = Need(name);
    CheckShape(name, stored, out, in);
    return Matrix(name, stored);
  }

  // Columns [begin, begin + out) of stored [in, all] as rows, f32 [out, in].
  OwnedTensor Transposed(const Tensor& stored, int64_t begin, int64_t out) const {
    const int64_t in = stored.rows(), all = stored.columns();
    OwnedTensor plain({out, in});
    std::vector<float> row(static_cast<size_t>(all));
    for (int64_t i = 0; i < in; ++i) {
      Dequantize(stored.dtype, stored.as<char>() + i * stored.row_bytes(), row.data(), all);
      for (int64_t j = 0; j < out; ++j) plain.view.row(j)[i] = row[static_cast<size_t>(begin + j)];
    }
    return plain;
  }

  ThreadPool& pool_;
  const TensorNames& names_;
  std::shared_ptr<const WeightSource> from_;
  const WeightSource& source_;
};

}  // namespace

std::vector<int32_t> UnpermutedRows(int64_t heads, int64_t head_dim) {
  std::vector<int32_t> order;
  for (int64_t head = 0; head < heads; ++head) {
    for (int64_t r = 0; r < head_dim; ++r) {
      const int64_t j = r / (head_dim / 2), i = r % (head_dim / 2);
      order.push_back(static_cast<int32_t>(head * head_dim + 2 * i + j));
    }
  }
  return order;
}

void CheckMemory(const ModelConfig& config, const TensorNames& names, const WeightSource& source, int64_t bytes) {
  const std::string path = source.path();
  int64_t all = 0, most = 0;  // of experts: in all layers, and in one
  for (int64_t layer = 0; layer < config.layers && config.experts > 0; ++layer) {
    int64_t own = 0;
    for (const Role role : {Role::kExpertGate, Role::kExpertUp, Role::kExpertDown}) {
      for (int64_t e = 0; e < (names.StacksExperts() ? 1 : config.experts); ++e) {
        if (const Tensor* found = source.Find(names.Weight(role, layer, e)); found != nullptr) own += found->bytes();
      }
    }
    all += own;
    most = std::max(most, own);
  }
  bytes -= all - most;
  const int64_t available = AvailableMemory();
  if (bytes <= available) return;
  Fail(ErrorCode::kResource, path, ": the weights take ", bytes >> 20, " MiB, ", available >> 20,
       " MiB of memory are available");
}

std::unique_ptr<ModelWeights> PackWeights(ThreadPool& pool, ModelConfig config, const TensorNames& names,
                                          std::shared_ptr<const WeightSource> from) {
  const WeightSource& source = *from;
  const Packer packer(pool, names, from);
  auto weights = std::make_unique<ModelWeights>();
  const std::string embedding_name = names.Weight(Role::kEmbedding);
  const Tensor embedding = packer.Need(embedding_name);
  config.vocab = embedding.rows();
  ValidateConfig(config, source.path());
  packer.CheckShape(embedding_name, embedding, config.vocab, config.hidden);
  weights->embedding = packer.Matrix(embedding_name, embedding);
  if (config.learned_positions) {
    const std::string name = names.Weight(Role::kPositions);
    const Tensor stored = packer.Need(name);
    packer.CheckShape(name, stored, stored.rows(), config.hidden);
    config.context = std::min(config.context, stored.rows());
    weights->positions = OwnedTensor({stored.rows(), config.hidden});
    Dequantize(stored.dtype, stored.data, weights->positions.view.f32(), stored.size());
  }
  weights->final_norm = packer.Norm(config, Role::kFinalNorm, 0, config.hidden);
  const std::string head_name = names.Weight(Role::kHead);
  if (const Tensor* head = packer.Find(head_name); head != nullptr && !config.tied_head) {
    packer.CheckShape(head_name, *head, config.vocab, config.hidden);
    weights->separate_head = packer.Matrix(head_name, *head);
  } else {
    config.tied_head = true;
  }

  for (int64_t layer = 0; layer < config.layers; ++layer) {
    BlockWeights& block = weights->blocks.emplace_back();
    block.attention_norm = packer.Norm(config, Role::kAttentionNorm, layer, config.hidden);
    block.ffn_norm = packer.Norm(config, Role::kFfnNorm, layer, config.hidden);
    if (config.post_norms) {
      block.attention_post_norm = packer.Norm(config, Role::kAttentionPostNorm, layer, config.hidden);
      block.ffn_post_norm = packer.Norm(config, Role::kFfnPostNorm, layer, config.hidden);
    }
    if (config.qk_norm) {
      block.q_norm = packer.Norm(config, Role::kQNorm, layer, config.head_dim);
      block.k_norm = packer.Norm(config, Role::kKNorm, layer, config.head_dim);
    }
    const bool routes = config.Routes(layer);
    for (int i = 0; i < kSiteKinds; ++i) {
      const Site site{static_cast<int>(layer), static_cast<SiteKind>(i)};
      if (site.kind == SiteKind::kGate && !config.gated) continue;
      if (site.kind >= SiteKind::kGate && routes && config.shared_ffn == 0) continue;
      block[site.kind] = packer.LinearAt(layer, PlaceOf(config, names, site), RowOrder(config, names, site));
    }
    if (routes) block.experts = packer.Experts(config, static_cast<int>(layer));
  }
  source.CheckIntact();
  weights->config = std::move(config);
  return weights;
}

void UnpackWeights(ThreadPool& pool, const ModelWeights& weights, const TensorNames& names, const VisitTensor& visit) {
  const ModelConfig& c = weights.config;
  Check(c.experts == 0, "what changes all weights is refused a mixture of experts");
  const auto vector = [&](const std::string& name, Tensor values, float offset = 0.0f,
                          std::span<const int32_t> order = {}) {
    visit(name, {values.size()}, [=, order = std::vector<int32_t>(order.begin(), order.end())] {
      OwnedTensor stored({values.size()});
      for (int64_t i = 0; i < values.size(); ++i) {
        const int64_t row = order.empty() ? i : order[static_cast<size_t>(i)];
        stored.view.f32()[row] = values.f32()[i] - offset;
      }
      return stored;
    });
  };
  const auto matrix = [&](const std::string& name, const PackedMatrix& packed) {
    visit(name, {packed.out(), packed.in()}, [&pool, &packed] {
      OwnedTensor values({packed.out(), packed.in()});
      packed.Unpack(pool, values.view);
      return values;
    });
  };
  const auto norm = [&](Role role, int64_t layer, const NormWeights& stored) {
    if (!stored.gain.view) return;
    vector(names.Weight(role, layer), stored.gain.view, names.gain_offset());
    if (stored.bias.view) vector(names.Bias(role, layer), stored.bias.view);
  };
  // The linears' rows one after another, in the file's order and orientation.
  const auto linears = [&](Role role, int64_t layer, std::vector<const Linear*> parts, std::span<const int32_t> order) {
    int64_t out = 0;
    for (const Linear* part : parts) out += part->out();
    const int64_t in = parts[0]->in();
    const bool turned = names.LayoutOf(role) == Layout::kTransposed;
    visit(names.Weight(role, layer), turned ? std::vector{in, out} : std::vector{out, in},
          [=, &pool, order = std::vector<int32_t>(order.begin(), order.end())] {
            OwnedTensor stored({turned ? in : out, turned ? out : in});
            int64_t begin = 0;
            for (const Linear* part : parts) {
              pool.Run(part->out(), [&](int64_t o, int) {
                const int64_t row = begin + (order.empty() ? o : order[static_cast<size_t>(o)]);
                if (!turned) return part->w.UnpackRow(o, stored.view.row(row));
                std::vector<float> values(static_cast<size_t>(in));
                part->w.UnpackRow(o, values.data());
                for (int64_t i = 0; i < in; ++i) stored.view.row(i)[row] = values[static_cast<size_t>(i)];
              });
              begin += part->out();
            }
            return stored;
          });
    if (!parts[0]->bias.view) return;
    if (parts.size() == 1) return vector(names.Bias(role, layer), parts[0]->bias.view, 0.0f, order);
    visit(names.Bias(role, layer), {out}, [=] {
      OwnedTensor stored({out});
      float* to = stored.view.f32();
      for (const Linear* part : parts) to = std::copy_n(part->bias.view.f32(), part->out(), to);
      return stored;
    });
  };

  matrix(names.Weight(Role::kEmbedding), weights.embedding);
  if (c.learned_positions) {
    visit(names.Weight(Role::kPositions), {weights.positions.view.rows(), c.hidden}, [&pool, &weights] {
      OwnedTensor copy({weights.positions.view.rows(), weights.positions.view.columns()});
      Convert(pool, weights.positions.view, copy.view);
      return copy;
    });
  }
  norm(Role::kFinalNorm, 0, weights.final_norm);
  if (weights.separate_head) matrix(names.Weight(Role::kHead), weights.separate_head);
  for (int64_t layer = 0; layer < c.layers; ++layer) {
    const BlockWeights& block = weights.blocks[static_cast<size_t>(layer)];
    norm(Role::kAttentionNorm, layer, block.attention_norm);
    norm(Role::kFfnNorm, layer, block.ffn_norm);
    norm(Role::kAttentionPostNorm, layer, block.attention_post_norm);
    norm(Role::kFfnPostNorm, layer, block.ffn_post_norm);
    norm(Role::kQNorm, layer, block.q_norm);
    norm(Role::kKNorm, layer, block.k_norm);
    std::vector<const Linear*> parts;  // of one tensor
    for (int i = 0; i < kSiteKinds; ++i) {
      const Site site{static_cast<int>(layer), static_cast<SiteKind>(i)};
      if (!block[site.kind].w) continue;
      parts.push_back(&block[site.kind]);
      const Place place = PlaceOf(c, names, site);
      if (place.begin + place.out < place.all) continue;
      linears(place.role, layer, parts, RowOrder(c, names, site));
      parts.clear();
    }
  }
}

std::unique_ptr<ModelWeights> LoadWeights(ThreadPool& pool, const std::string& path) {
  return std::filesystem::is_directory(path) ? LoadHuggingFace(pool, path) : LoadGguf(pool, path);
}

}  // namespace cambium
