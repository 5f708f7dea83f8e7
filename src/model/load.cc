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

Place PlaceOf(const ModelConfig& c, const TensorNames& names, SiteKind kind) {
  const int64_t q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
  const int64_t outs[kSiteKinds] = {q, kv, kv, c.hidden, c.ffn, c.ffn, c.hidden, q, kv, kv, c.hidden};
  const int64_t out = outs[static_cast<int>(kind)];
  const int64_t in = kind == SiteKind::kO || kind == SiteKind::kCrossO ? q : kind == SiteKind::kDown ? c.ffn : c.hidden;
  if (kind <= SiteKind::kV && names.Has(Role::kQkv)) {
    return {Role::kQkv, kind == SiteKind::kQ ? 0 : kind == SiteKind::kK ? q : q + kv, out, q + 2 * kv, in};
  }
  const bool gated = kind == SiteKind::kGate || kind == SiteKind::kUp;
  if (gated && names.Has(Role::kGateUp)) {
    return {Role::kGateUp, kind == SiteKind::kGate ? 0 : c.ffn, out, 2 * c.ffn, in};
  }
  return {RoleOf(kind), 0, out, out, in};
}

// The file's row of each of ours; empty: the same.
std::vector<int32_t> RowOrder(const ModelConfig& c, const TensorNames& names, SiteKind kind) {
  if (!names.Has(RoleOf(kind)) || names.LayoutOf(RoleOf(kind)) != Layout::kRopePairs) return {};
  return UnpermutedRows(kind == SiteKind::kQ ? c.heads : c.kv_heads, c.head_dim);
}

std::string ShapeText(const Tensor& tensor) {
  std::string text = "[";
  for (int i = 0; i < tensor.rank; ++i) text += (i ? ", " : "") + std::to_string(tensor.shape[static_cast<size_t>(i)]);
  return text + "]";
}

class Packer {
 public:
  Packer(ThreadPool& pool, const TensorNames& names, const WeightSource& source)
      : pool_(pool), names_(names), source_(source) {}

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

  PackedMatrix Matrix(const std::string& name, const Tensor& stored, std::span<const int32_t> order = {}) const {
    if (IsQuantized(stored.dtype) && stored.columns() % Info(stored.dtype).block != 0) {
      Fail(ErrorCode::kData, source_.path(), ": tensor ", name, " of type ", Info(stored.dtype).name, " has ",
           stored.columns(), " columns, not a multiple of ", Info(stored.dtype).block);
    }
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

  // The table of a layer's stack; bounds the context.
  OwnedTensor Positions(ModelConfig& c, int64_t layer) const {
    const std::string name = names_.Weight(Role::kPositions, layer);
    const Tensor stored = Need(name);
    CheckShape(name, stored, stored.rows(), c.hidden);
    c.context = std::min(c.context, stored.rows() - c.position_offset);
    OwnedTensor table({stored.rows(), c.hidden});
    Dequantize(stored.dtype, stored.data, table.view.f32(), stored.size());
    return table;
  }

  NormWeights Norm(const ModelConfig& c, Role role, int64_t layer, int64_t size) const {
    NormWeights norm;
    norm.gain = Vector(names_.Weight(role, layer), size, names_.gain_offset());
    if (c.norm == ModelConfig::Norm::kLayer) norm.bias = Vector(names_.Bias(role, layer), size);
    return norm;
  }

 private:
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

void CheckMemory(const std::string& path, int64_t bytes) {
  const int64_t available = AvailableMemory();
  if (bytes <= available) return;
  Fail(ErrorCode::kResource, path, ": the weights take ", bytes >> 20, " MiB, ", available >> 20,
       " MiB of memory are available");
}

std::unique_ptr<ModelWeights> PackWeights(ThreadPool& pool, ModelConfig config, const TensorNames& names,
                                          const WeightSource& source) {
  const Packer packer(pool, names, source);
  auto weights = std::make_unique<ModelWeights>();
  const std::string embedding_name = names.Weight(Role::kEmbedding);
  const Tensor embedding = packer.Need(embedding_name);
  config.vocab = embedding.rows();
  ValidateConfig(config, source.path());
  packer.CheckShape(embedding_name, embedding, config.vocab, config.hidden);
  weights->embedding = packer.Matrix(embedding_name, embedding);
  const auto stack = [&](int64_t layer, OwnedTensor& positions, NormWeights& embedding_norm, NormWeights& final_norm) {
    if (config.learned_positions) positions = packer.Positions(config, layer);
    if (config.embedding_norm) embedding_norm = packer.Norm(config, Role::kEmbeddingNorm, layer, config.hidden);
    if (config.final_norm) final_norm = packer.Norm(config, Role::kFinalNorm, layer, config.hidden);
  };
  stack(config.encoder_layers, weights->positions, weights->embedding_norm, weights->final_norm);
  if (config.has_encoder()) {
    stack(0, weights->encoder.positions, weights->encoder.embedding_norm, weights->encoder.final_norm);
  }
  if (names.Has(Role::kLogitBias) && packer.Find(names.Stem(Role::kLogitBias)) != nullptr) {
    weights->logit_bias = packer.Vector(names.Stem(Role::kLogitBias), config.vocab);
  }
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
    if (config.cross(layer)) block.cross_norm = packer.Norm(config, Role::kCrossNorm, layer, config.hidden);
    if (config.post_norms) {
      block.attention_post_norm = packer.Norm(config, Role::kAttentionPostNorm, layer, config.hidden);
      block.ffn_post_norm = packer.Norm(config, Role::kFfnPostNorm, layer, config.hidden);
    }
    if (config.qk_norm) {
      block.q_norm = packer.Norm(config, Role::kQNorm, layer, config.head_dim);
      block.k_norm = packer.Norm(config, Role::kKNorm, layer, config.head_dim);
    }
    for (int i = 0; i < kSiteKinds; ++i) {
      const SiteKind kind = static_cast<SiteKind>(i);
      if (kind == SiteKind::kGate && !config.gated) continue;
      if (kind >= SiteKind::kCrossQ && !config.cross(layer)) continue;
      block[kind] = packer.LinearAt(layer, PlaceOf(config, names, kind), RowOrder(config, names, kind));
    }
  }
  source.CheckIntact();
  weights->config = std::move(config);
  return weights;
}

void UnpackWeights(ThreadPool& pool, const ModelWeights& weights, const TensorNames& names, const VisitTensor& visit) {
  const ModelConfig& c = weights.config;
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
  const auto stack = [&](int64_t layer, const OwnedTensor& positions, const NormWeights& embedding_norm,
                         const NormWeights& final_norm) {
    if (positions.view) {
      visit(names.Weight(Role::kPositions, layer), {positions.view.rows(), c.hidden}, [&pool, &positions] {
        OwnedTensor copy({positions.view.rows(), positions.view.columns()});
        Convert(pool, positions.view, copy.view);
        return copy;
      });
    }
    norm(Role::kEmbeddingNorm, layer, embedding_norm);
    norm(Role::kFinalNorm, layer, final_norm);
  };
  stack(c.encoder_layers, weights.positions, weights.embedding_norm, weights.final_norm);
  if (c.has_encoder()) {
    stack(0, weights.encoder.positions, weights.encoder.embedding_norm, weights.encoder.final_norm);
  }
  if (weights.logit_bias.view) {
    visit(names.Stem(Role::kLogitBias), {1, c.vocab}, [&pool, &weights, &c] {
      OwnedTensor copy({1, c.vocab});
      Convert(pool, Tensor(weights.logit_bias.view.f32(), {1, c.vocab}), copy.view);
      return copy;
    });
  }
  if (weights.separate_head) matrix(names.Weight(Role::kHead), weights.separate_head);
  for (int64_t layer = 0; layer < c.layers; ++layer) {
    const BlockWeights& block = weights.blocks[static_cast<size_t>(layer)];
    norm(Role::kAttentionNorm, layer, block.attention_norm);
    norm(Role::kFfnNorm, layer, block.ffn_norm);
    norm(Role::kCrossNorm, layer, block.cross_norm);
    norm(Role::kAttentionPostNorm, layer, block.attention_post_norm);
    norm(Role::kFfnPostNorm, layer, block.ffn_post_norm);
    norm(Role::kQNorm, layer, block.q_norm);
    norm(Role::kKNorm, layer, block.k_norm);
    std::vector<const Linear*> parts;  // of one tensor
    for (int i = 0; i < kSiteKinds; ++i) {
      const SiteKind kind = static_cast<SiteKind>(i);
      if (!block[kind].w) continue;
      parts.push_back(&block[kind]);
      const Place place = PlaceOf(c, names, kind);
      if (place.begin + place.out < place.all) continue;
      linears(place.role, layer, parts, RowOrder(c, names, kind));
      parts.clear();
    }
  }
}

std::unique_ptr<ModelWeights> LoadWeights(ThreadPool& pool, const std::string& path) {
  return std::filesystem::is_directory(path) ? LoadHuggingFace(pool, path) : LoadGguf(pool, path);
}

}  // namespace cambium
