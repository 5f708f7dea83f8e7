#include "model/load.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <vector>

#include "base/limits.h"
#include "families/layout.h"
#include "tensor/quantize.h"

namespace cambium {
namespace {

// Of the tensor that holds the linear, and maybe others.
Role RoleIn(const ModelConfig& c, const TensorNames& names, Site site) {
  if (site.kind <= SiteKind::kV && names.Has(Role::kQkv)) return Role::kQkv;
  const bool gated = site.kind == SiteKind::kGate || site.kind == SiteKind::kUp;
  if (gated && names.Has(Role::kGateUp)) return Role::kGateUp;
  return RoleOf(c, site);
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

  Linear LinearAt(int64_t layer, const LinearPlace& place) const {
    const std::string name = names_.Weight(place.role, layer), bias_name = names_.Bias(place.role, layer);
    const Tensor stored = Need(name);
    Linear linear;
    if (names_.LayoutOf(place.role) == Layout::kTransposed) {
      CheckShape(name, stored, place.in, place.all);
      linear.w = PackedMatrix(pool_, Transposed(stored, place.rows).view);
    } else {
      CheckShape(name, stored, place.all, place.in);
      linear.w = RowsOf(name, stored, place.rows);
    }
    if (Find(bias_name) == nullptr) return linear;
    const OwnedTensor bias = Vector(bias_name, place.all);
    linear.bias = OwnedTensor({static_cast<int64_t>(place.rows.size())});
    for (size_t i = 0; i < place.rows.size(); ++i) linear.bias.view.f32()[i] = bias.view.f32()[place.rows[i]];
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
        const LinearPlace place = PlaceOf(c, names_, {layer, kind, e});
        const std::string name = names_.Weight(place.role, layer, e);
        const Tensor stored = Need(name);
        CheckShape(name, stored, place.all, place.in);
        CheckBlocks(name, stored);
        expert[kind].w = PackedMatrix(from_, stored.Rows(place.rows[0], std::ssize(place.rows)));
      }
    }
    return experts;
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
  PackedMatrix Whole(const std::string& name, int64_t out, int64_t in) const {
    const Tensor stored = Need(name);
    CheckShape(name, stored, out, in);
    return Matrix(name, stored);
  }

  // Those rows of the stored matrix; without a copy where they are a block of it.
  PackedMatrix RowsOf(const std::string& name, const Tensor& stored, std::span<const int32_t> rows) const {
    const int64_t first = *std::ranges::min_element(rows), count = std::ssize(rows);
    std::vector<int32_t> order;
    bool same = true;
    for (size_t i = 0; i < rows.size(); ++i) {
      order.push_back(rows[i] - static_cast<int32_t>(first));
      same = same && order.back() == static_cast<int32_t>(i);
    }
    if (*std::ranges::max_element(rows) - first + 1 == count) {
      return Matrix(name, stored.Rows(first, count), same ? std::span<const int32_t>() : order);
    }
    const OwnedTensor copy(stored.dtype, {count, stored.columns()});
    for (int64_t i = 0; i < count; ++i) {
      std::memcpy(copy.view.as<char>() + i * copy.view.row_bytes(),
                  stored.as<char>() + rows[static_cast<size_t>(i)] * stored.row_bytes(),
                  static_cast<size_t>(stored.row_bytes()));
    }
    return PackedMatrix(pool_, copy.view);
  }

  // Columns of stored [in, all] as rows, f32 [rows, in].
  OwnedTensor Transposed(const Tensor& stored, std::span<const int32_t> rows) const {
    const int64_t in = stored.rows(), all = stored.columns();
    OwnedTensor plain({std::ssize(rows), in});
    std::vector<float> row(static_cast<size_t>(all));
    for (int64_t i = 0; i < in; ++i) {
      Dequantize(stored.dtype, stored.as<char>() + i * stored.row_bytes(), row.data(), all);
      for (int64_t j = 0; j < std::ssize(rows); ++j) {
        plain.view.row(j)[i] = row[static_cast<size_t>(rows[static_cast<size_t>(j)])];
      }
    }
    return plain;
  }

  ThreadPool& pool_;
  const TensorNames& names_;
  std::shared_ptr<const WeightSource> from_;
  const WeightSource& source_;
};

}  // namespace

LinearPlace PlaceOf(const ModelConfig& c, const TensorNames& names, Site site) {
  const SiteKind kind = site.kind;
  const int64_t ffn = site.expert >= 0 ? c.expert_ffn : c.Routes(site.layer) ? c.shared_ffn : c.ffn;
  const int64_t q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
  const int64_t outs[kSiteKinds] = {q, kv, kv, c.hidden, ffn, ffn, c.hidden, q, kv, kv, c.hidden};
  const int64_t out = outs[static_cast<int>(kind)];
  const bool mixes = kind == SiteKind::kO || kind == SiteKind::kCrossO;
  const int64_t in = mixes ? q : kind == SiteKind::kDown ? ffn : c.hidden;
  LinearPlace place = {RoleIn(c, names, site), out, in, {}};
  int64_t begin = 0;
  if (place.role == Role::kQkv) {
    begin = kind == SiteKind::kQ ? 0 : kind == SiteKind::kK ? q : q + kv;
    place.all = q + 2 * kv;
  } else if (place.role == Role::kGateUp) {
    begin = kind == SiteKind::kGate ? 0 : ffn;
    place.all = 2 * ffn;
  } else if (site.expert >= 0 && names.StacksExperts()) {
    begin = site.expert * out;
    place.all = c.experts * out;
  }
  std::vector<int32_t> order;
  if (names.Has(place.role)) {
    order = FileRows(names.LayoutOf(place.role), place.role, {c.heads, c.kv_heads, c.head_dim});
  }
  for (int64_t row = begin; row < begin + out; ++row) {
    place.rows.push_back(order.empty() ? static_cast<int32_t>(row) : order[static_cast<size_t>(row)]);
  }
  return place;
}

std::string LinearStem(const ModelConfig& config, Dialect dialect, Site site) {
  const TensorNames names = NamesOf(config, dialect);
  const Role role = RoleIn(config, names, site);
  return names.Has(role) ? names.Stem(role, site.layer, site.expert) : "";
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

  const int64_t q_rows = config.heads * config.head_dim, kv_rows = config.kv_heads * config.head_dim;
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    BlockWeights& block = weights->blocks.emplace_back();
    if (config.pre_norms) {
      block.attention_norm = packer.Norm(config, Role::kAttentionNorm, layer, config.hidden);
      block.ffn_norm = packer.Norm(config, Role::kFfnNorm, layer, config.hidden);
    }
    if (config.cross(layer)) block.cross_norm = packer.Norm(config, Role::kCrossNorm, layer, config.hidden);
    if (config.post_norms) {
      block.attention_post_norm = packer.Norm(config, Role::kAttentionPostNorm, layer, config.hidden);
      block.ffn_post_norm = packer.Norm(config, Role::kFfnPostNorm, layer, config.hidden);
    }
    if (config.qk_norm) {
      const bool wide = config.wide_qk_norm;
      block.q_norm = packer.Norm(config, Role::kQNorm, layer, wide ? q_rows : config.head_dim);
      block.k_norm = packer.Norm(config, Role::kKNorm, layer, wide ? kv_rows : config.head_dim);
    }
    const bool routes = config.Routes(layer);
    for (int i = 0; i < kSiteKinds; ++i) {
      const Site site{static_cast<int>(layer), static_cast<SiteKind>(i)};
      if (site.kind == SiteKind::kGate && !config.gated) continue;
      if (site.kind >= SiteKind::kGate && routes && config.shared_ffn == 0) continue;
      if (site.kind >= SiteKind::kCrossQ && !config.cross(layer)) continue;
      block[site.kind] = packer.LinearAt(layer, PlaceOf(config, names, site));
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
  const auto vector = [&](const std::string& name, Tensor values, float offset = 0.0f) {
    visit(name, {values.size()}, [=] {
      OwnedTensor stored({values.size()});
      for (int64_t i = 0; i < values.size(); ++i) stored.view.f32()[i] = values.f32()[i] - offset;
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
  struct Part {
    const Linear* linear;
    std::vector<int32_t> rows;  // in the tensor
  };
  // The linears of one tensor, in the file's order and orientation.
  const auto linears = [&](Role role, int64_t layer, int64_t all, const std::vector<Part>& parts) {
    const int64_t in = parts[0].linear->in();
    const bool turned = names.LayoutOf(role) == Layout::kTransposed;
    visit(names.Weight(role, layer), turned ? std::vector{in, all} : std::vector{all, in}, [=, &pool] {
      OwnedTensor stored({turned ? in : all, turned ? all : in});
      for (const Part& part : parts) {
        pool.Run(part.linear->out(), [&](int64_t o, int) {
          const int64_t row = part.rows[static_cast<size_t>(o)];
          if (!turned) return part.linear->w.UnpackRow(o, stored.view.row(row));
          std::vector<float> values(static_cast<size_t>(in));
          part.linear->w.UnpackRow(o, values.data());
          for (int64_t i = 0; i < in; ++i) stored.view.row(i)[row] = values[static_cast<size_t>(i)];
        });
      }
      return stored;
    });
    if (!parts[0].linear->bias.view) return;
    visit(names.Bias(role, layer), {all}, [=] {
      OwnedTensor stored({all});
      for (const Part& part : parts) {
        for (int64_t o = 0; o < part.linear->out(); ++o) {
          stored.view.f32()[part.rows[static_cast<size_t>(o)]] = part.linear->bias.view.f32()[o];
        }
      }
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
    std::vector<Part> parts;  // of one tensor
    size_t filled = 0;
    for (int i = 0; i < kSiteKinds; ++i) {
      const SiteKind kind = static_cast<SiteKind>(i);
      if (!block[kind].w) continue;
      const LinearPlace place = PlaceOf(c, names, {static_cast<int>(layer), kind});
      parts.push_back({&block[kind], place.rows});
      filled += place.rows.size();
      if (filled < static_cast<size_t>(place.all)) continue;
      linears(place.role, layer, place.all, parts);
      parts.clear();
      filled = 0;
    }
  }
}

std::unique_ptr<ModelWeights> LoadWeights(ThreadPool& pool, const std::string& path) {
  return std::filesystem::is_directory(path) ? LoadHuggingFace(pool, path) : LoadGguf(pool, path);
}

}  // namespace cambium
