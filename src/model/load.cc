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

std::string Name(const char* pattern, int64_t layer) {
  std::string name = pattern;
  if (const size_t at = name.find("{}"); at != std::string::npos) name.replace(at, 2, std::to_string(layer));
  return name;
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

  // Rows [begin, begin + out) of the stored matrix; the whole of it unless it is fused.
  Linear LinearAt(const std::string& stem, int64_t out, int64_t in, int64_t begin, int64_t stored_out,
                  std::span<const int32_t> order) const {
    const std::string name = stem + names_.weight;
    Tensor stored = Need(name);
    Linear linear;
    if (names_.transposed) {
      CheckShape(name, stored, in, stored_out);
      const OwnedTensor plain = Transposed(stored, begin, out);
      linear.w = PackedMatrix(pool_, plain.view, order);
    } else {
      CheckShape(name, stored, stored_out, in);
      linear.w = Matrix(name, stored.Rows(begin, out), order);
    }
    if (Find(stem + names_.bias) != nullptr) {
      const OwnedTensor bias = Vector(stem + names_.bias, stored_out);
      linear.bias = OwnedTensor({out});
      for (int64_t i = 0; i < out; ++i) {
        const int64_t row = order.empty() ? i : order[static_cast<size_t>(i)];
        linear.bias.view.f32()[i] = bias.view.f32()[begin + row];
      }
    }
    return linear;
  }

  NormWeights Norm(const ModelConfig& c, const char* pattern, int64_t layer, int64_t size) const {
    const std::string stem = Name(pattern, layer);
    NormWeights norm;
    norm.gain = Vector(stem + names_.weight, size, names_.norm_offset);
    if (c.norm == ModelConfig::Norm::kLayer) norm.bias = Vector(stem + names_.bias, size);
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

RopeTable MakeRopeTable(double theta, int64_t head_dim, const RopeScaling& scaling) {
  constexpr double kTwoPi = 6.283185307179586;
  const double dim = static_cast<double>(head_dim), original = static_cast<double>(scaling.original_context);
  // The pair that turns `rotations` times over the original context.
  const auto pair_of = [&](double rotations) {
    return dim * std::log(original / (rotations * kTwoPi)) / (2 * std::log(theta));
  };
  double low = 0, high = 0;
  RopeTable table;
  table.scale = static_cast<float>(scaling.attention);
  if (scaling.type == "yarn") {
    low = pair_of(scaling.beta_fast);
    high = pair_of(scaling.beta_slow);
    low = std::max(scaling.truncate ? std::floor(low) : low, 0.0);
    high = std::min(scaling.truncate ? std::ceil(high) : high, dim - 1);
    if (low == high) high += 0.001;
  }
  for (int64_t i = 0; i < head_dim / 2; ++i) {
    double inv_freq = std::pow(theta, -2.0 * static_cast<double>(i) / dim);
    double stretched = 0;  // share of inv_freq / factor in the result
    if (scaling.type == "linear") {
      stretched = 1;
    } else if (scaling.type == "llama3") {
      const double turns = original * inv_freq / kTwoPi;
      stretched = 1 - std::clamp((turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor),
                                 0.0, 1.0);
    } else if (scaling.type == "yarn") {
      stretched = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    }
    inv_freq = stretched * inv_freq / scaling.factor + (1 - stretched) * inv_freq;
    table.inv_freq.push_back(static_cast<float>(inv_freq));
  }
  return table;
}

void ValidateConfig(const ModelConfig& c, const std::string& path) {
  const struct {
    const char* name;
    int64_t value, limit;
  } sizes[] = {{"layers", c.layers, 1 << 16},        {"hidden size", c.hidden, 1 << 24},
               {"feed-forward size", c.ffn, 1 << 24}, {"heads", c.heads, 1 << 16},
               {"key/value heads", c.kv_heads, 1 << 16}, {"head dimension", c.head_dim, 1 << 16},
               {"context length", c.context, std::numeric_limits<int32_t>::max()}};
  for (const auto& size : sizes) {
    if (size.value < 1 || size.value > size.limit) {
      Fail(ErrorCode::kData, path, ": ", size.name, " is ", size.value, ", expected 1 to ", size.limit);
    }
  }
  if (c.heads % c.kv_heads != 0) {
    Fail(ErrorCode::kData, path, ": ", c.heads, " heads are not a multiple of ", c.kv_heads, " key/value heads");
  }
  if (c.head_dim % 2 != 0) Fail(ErrorCode::kData, path, ": head dimension ", c.head_dim, " is odd");
  if (!(c.norm_eps > 0)) Fail(ErrorCode::kData, path, ": norm epsilon is ", c.norm_eps);
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
  const std::string embedding_name = std::string(names.embedding) + names.weight;
  const Tensor embedding = packer.Need(embedding_name);
  config.vocab = embedding.rows();
  ValidateConfig(config, source.path());
  packer.CheckShape(embedding_name, embedding, config.vocab, config.hidden);
  weights->embedding = packer.Matrix(embedding_name, embedding);
  if (config.learned_positions) {
    const std::string name = std::string(names.positions) + names.weight;
    const Tensor stored = packer.Need(name);
    packer.CheckShape(name, stored, stored.rows(), config.hidden);
    config.context = std::min(config.context, stored.rows());
    weights->positions = OwnedTensor({stored.rows(), config.hidden});
    Dequantize(stored.dtype, stored.data, weights->positions.view.f32(), stored.size());
  }
  weights->final_norm = packer.Norm(config, names.final_norm, 0, config.hidden);
  const std::string head_name = std::string(names.head) + names.weight;
  if (const Tensor* head = packer.Find(head_name); head != nullptr && !config.tied_head) {
    packer.CheckShape(head_name, *head, config.vocab, config.hidden);
    weights->separate_head = packer.Matrix(head_name, *head);
  } else {
    config.tied_head = true;
  }

  const int64_t q_rows = config.heads * config.head_dim, kv_rows = config.kv_heads * config.head_dim;
  const std::vector<int32_t> q_order = UnpermutedRows(config.heads, config.head_dim);
  const std::vector<int32_t> k_order = UnpermutedRows(config.kv_heads, config.head_dim);
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    BlockWeights& block = weights->blocks.emplace_back();
    block.attention_norm = packer.Norm(config, names.attention_norm, layer, config.hidden);
    block.ffn_norm = packer.Norm(config, names.ffn_norm, layer, config.hidden);
    if (config.post_norms) {
      block.attention_post_norm = packer.Norm(config, names.attention_post_norm, layer, config.hidden);
      block.ffn_post_norm = packer.Norm(config, names.ffn_post_norm, layer, config.hidden);
    }
    if (config.qk_norm) {
      block.q_norm = packer.Norm(config, names.q_norm, layer, config.head_dim);
      block.k_norm = packer.Norm(config, names.k_norm, layer, config.head_dim);
    }
    const struct {
      SiteKind kind;
      int64_t out, in, fused_begin;  // fused_begin: first row in the fused matrix, -1 if never fused
    } linears[] = {{SiteKind::kQ, q_rows, config.hidden, 0},
                   {SiteKind::kK, kv_rows, config.hidden, q_rows},
                   {SiteKind::kV, kv_rows, config.hidden, q_rows + kv_rows},
                   {SiteKind::kO, config.hidden, q_rows, -1},
                   {SiteKind::kGate, config.ffn, config.hidden, -1},
                   {SiteKind::kUp, config.ffn, config.hidden, -1},
                   {SiteKind::kDown, config.hidden, config.ffn, -1}};
    for (const auto& linear : linears) {
      if (linear.kind == SiteKind::kGate && !config.gated) continue;
      const bool fused = names.fused_qkv != nullptr && linear.fused_begin >= 0;
      const char* pattern = fused ? names.fused_qkv : names.linears[static_cast<int>(linear.kind)];
      std::span<const int32_t> order;
      if (names.permuted_qk && linear.kind == SiteKind::kQ) order = q_order;
      if (names.permuted_qk && linear.kind == SiteKind::kK) order = k_order;
      block[linear.kind] = packer.LinearAt(Name(pattern, layer), linear.out, linear.in, fused ? linear.fused_begin : 0,
                                           fused ? q_rows + 2 * kv_rows : linear.out, order);
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
  const auto norm = [&](const char* pattern, int64_t layer, const NormWeights& stored) {
    if (!stored.gain.view) return;
    const std::string stem = Name(pattern, layer);
    vector(stem + names.weight, stored.gain.view, names.norm_offset);
    if (stored.bias.view) vector(stem + names.bias, stored.bias.view);
  };
  // The linears' rows one after another, in the file's order and orientation.
  const auto linears = [&](const std::string& stem, std::vector<const Linear*> parts, std::span<const int32_t> order) {
    int64_t out = 0;
    for (const Linear* part : parts) out += part->out();
    const int64_t in = parts[0]->in();
    const bool turned = names.transposed;
    visit(stem + names.weight, turned ? std::vector{in, out} : std::vector{out, in},
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
    if (parts.size() == 1) return vector(stem + names.bias, parts[0]->bias.view, 0.0f, order);
    visit(stem + names.bias, {out}, [=] {
      OwnedTensor stored({out});
      float* to = stored.view.f32();
      for (const Linear* part : parts) to = std::copy_n(part->bias.view.f32(), part->out(), to);
      return stored;
    });
  };

  matrix(std::string(names.embedding) + names.weight, weights.embedding);
  if (c.learned_positions) {
    visit(std::string(names.positions) + names.weight, {weights.positions.view.rows(), c.hidden}, [&pool, &weights] {
      OwnedTensor copy({weights.positions.view.rows(), weights.positions.view.columns()});
      Convert(pool, weights.positions.view, copy.view);
      return copy;
    });
  }
  norm(names.final_norm, 0, weights.final_norm);
  if (weights.separate_head) matrix(std::string(names.head) + names.weight, weights.separate_head);
  const std::vector<int32_t> q_order = UnpermutedRows(c.heads, c.head_dim);
  const std::vector<int32_t> k_order = UnpermutedRows(c.kv_heads, c.head_dim);
  for (int64_t layer = 0; layer < c.layers; ++layer) {
    const BlockWeights& block = weights.blocks[static_cast<size_t>(layer)];
    norm(names.attention_norm, layer, block.attention_norm);
    norm(names.ffn_norm, layer, block.ffn_norm);
    norm(names.attention_post_norm, layer, block.attention_post_norm);
    norm(names.ffn_post_norm, layer, block.ffn_post_norm);
    norm(names.q_norm, layer, block.q_norm);
    norm(names.k_norm, layer, block.k_norm);
    if (names.fused_qkv != nullptr) {
      linears(Name(names.fused_qkv, layer), {&block[SiteKind::kQ], &block[SiteKind::kK], &block[SiteKind::kV]}, {});
    }
    for (int kind = 0; kind < kSiteKinds; ++kind) {
      const bool fused = names.fused_qkv != nullptr && kind <= static_cast<int>(SiteKind::kV);
      if (!block.linears[kind].w || fused) continue;
      std::span<const int32_t> order;
      if (names.permuted_qk && kind == static_cast<int>(SiteKind::kQ)) order = q_order;
      if (names.permuted_qk && kind == static_cast<int>(SiteKind::kK)) order = k_order;
      linears(Name(names.linears[kind], layer), {&block.linears[kind]}, order);
    }
  }
}

std::unique_ptr<ModelWeights> LoadWeights(ThreadPool& pool, const std::string& path) {
  return std::filesystem::is_directory(path) ? LoadHuggingFace(pool, path) : LoadGguf(pool, path);
}

}  // namespace cambium
