#include "grafts/prefix.h"

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/random.h"
#include "cambium/error.h"

namespace cambium {
namespace {

constexpr int64_t kMaxMlpWidth = int64_t{1} << 16;

void FillNormal(uint64_t seed, uint64_t stream, Tensor values) {
  const Philox noise(seed);
  for (int64_t i = 0; i < values.size(); ++i) {
    values.f32()[i] = static_cast<float>(noise.Normal(static_cast<uint64_t>(i), stream));
  }
}

// torch's nn.Linear: uniform in +-1 / sqrt(in).
void FillUniform(uint64_t seed, uint64_t stream, int64_t in, Tensor values) {
  const Philox noise(seed);
  const double bound = 1 / std::sqrt(static_cast<double>(in));
  for (int64_t i = 0; i < values.size(); ++i) {
    values.f32()[i] = static_cast<float>(bound * (2 * noise.Uniform(static_cast<uint64_t>(i), stream) - 1));
  }
}

}  // namespace

OwnedTensor KeysAndValuesOf(BaseModel& base, std::span<const int32_t> ids, Compute compute, DType kv_type) {
  constexpr size_t kChunk = 512;
  Transformer model(base);
  const ModelConfig& c = model.config();
  const int64_t length = static_cast<int64_t>(ids.size()), columns = c.kv_heads * c.head_dim;
  KvCache cache(c, kv_type, length);
  const KvCache::Id sequence = cache.Open();
  for (size_t begin = 0; begin < ids.size(); begin += kChunk) {
    Pass pass;
    pass.compute = compute;
    pass.kv = &cache;
    pass.Append(sequence, static_cast<int64_t>(begin), ids.subspan(begin, std::min(kChunk, ids.size() - begin)));
    model.Forward(pass);
    CommitAll(pass);
  }
  OwnedTensor all({c.layers, 2, length, columns});
  for (int64_t layer = 0; layer < c.layers; ++layer) {
    const Tensor k(all.view.f32() + 2 * layer * length * columns, {length, c.kv_heads, c.head_dim});
    const Tensor v(k.f32() + length * columns, {length, c.kv_heads, c.head_dim});
    LoadKv(cache.layer(layer), cache.Segment(sequence, 0, 0, length).pages, 0, k, v);
  }
  return all;
}

PrefixGraft::PrefixGraft(const BaseModel& model, int64_t length) : model_(model), length_(length) {
  const int64_t most = model.config().context - 1;
  if (length < 1 || length > most) Fail(ErrorCode::kUsage, "prefix length is ", length, ", expected 1 to ", most);
  values_ = OwnedTensor({model.config().layers, 2, length, columns()});
  param_.name = "prefix";
  param_.value = values_.view;
}

std::unique_ptr<Graft> PrefixGraft::Make(const GraftOptions& options, BaseModel& model) {
  if (options.mlp_width < 0 || options.mlp_width > kMaxMlpWidth) {
    Fail(ErrorCode::kUsage, "the width of the prefix's MLP is ", options.mlp_width, ", expected 0 to ", kMaxMlpWidth);
  }
  std::unique_ptr<PrefixGraft> graft(new PrefixGraft(model, options.length));
  graft->base_ = options.base;
  const bool text = options.prefix_init == "text", zero = options.prefix_init == "zero";
  if (text) {
    if (options.init_ids.empty()) Fail(ErrorCode::kUsage, "a prefix that begins as a text needs the text's tokens");
    std::vector<int32_t> ids;
    while (static_cast<int64_t>(ids.size()) < options.length) {
      ids.push_back(options.init_ids[ids.size() % options.init_ids.size()]);
    }
    graft->values_ = KeysAndValuesOf(model, ids, Compute::kF32, DType::kF32);
    graft->param_.value = graft->values_.view;
  } else if (options.prefix_init == "random") {
    if (options.mlp_width == 0) FillNormal(options.seed, 0x707265, graft->values_.view);  // as torch's nn.Embedding
  } else if (!zero) {
    Fail(ErrorCode::kUsage, "prefix init is \"", options.prefix_init, "\", expected text, random or zero");
  }
  if (options.mlp_width > 0) {
    graft->AddMlp(options.mlp_width, options.seed, zero);
    if (text) graft->FitMlp();
    graft->RunMlp();
  }
  return graft;
}

std::unique_ptr<PrefixGraft> PrefixGraft::Compile(BaseModel& model, std::span<const int32_t> ids, Compute compute,
                                                  DType kv_type) {
  std::unique_ptr<PrefixGraft> graft(new PrefixGraft(model, static_cast<int64_t>(ids.size())));
  graft->values_ = KeysAndValuesOf(model, ids, compute, kv_type);
  graft->param_.value = graft->values_.view;
  return graft;
}

Tensor PrefixGraft::Part(const OwnedTensor& all, int64_t layer, int64_t part) const {
  return {all.view.f32() + (2 * layer + part) * length_ * columns(), {length_, columns()}};
}

Graft::Kv PrefixGraft::PrefixKv(int layer) {
  const ModelConfig& c = model_.config();
  const auto heads = [&](Tensor x) { return Tensor(x.f32(), {length_, c.kv_heads, c.head_dim}); };
  return {heads(Part(values_, layer, 0)), heads(Part(values_, layer, 1))};
}

void PrefixGraft::PrefixKvBackward(int layer, Tensor dk, Tensor dv) {
  if (mlp_ == nullptr) {
    if (!param_.grad) return;
    const int64_t size = length_ * columns();
    float* const grad = param_.grad.f32() + 2 * layer * size;
    Add(model_.pool(), Tensor(dk.f32(), {length_, columns()}), Tensor(grad, {length_, columns()}));
    Add(model_.pool(), Tensor(dv.f32(), {length_, columns()}), Tensor(grad + size, {length_, columns()}));
    return;
  }
  if (!mlp_->params[0].grad) return;
  Convert(model_.pool(), Tensor(dk.f32(), {length_, columns()}), Part(mlp_->dvalues, layer, 0));
  Convert(model_.pool(), Tensor(dv.f32(), {length_, columns()}), Part(mlp_->dvalues, layer, 1));
  if (layer == 0) MlpBackward();  // backward comes down: the other layers' gradients are there
}

void PrefixGraft::VisitParams(const std::function<void(Parameter&)>& visit) {
  if (mlp_ == nullptr) return visit(param_);
  for (Parameter& param : mlp_->params) visit(param);
}

void PrefixGraft::AfterUpdate() {
  if (mlp_ != nullptr) RunMlp();
}

void PrefixGraft::AddMlp(int64_t width, uint64_t seed, bool zero) {
  const int64_t in = columns(), out = 2 * model_.config().layers * in;
  mlp_ = std::make_unique<Mlp>();
  Mlp& m = *mlp_;
  m.embedding = OwnedTensor({length_, in});
  m.w1 = OwnedTensor({width, in});
  m.b1 = OwnedTensor({width});
  m.w2 = OwnedTensor({out, width});
  m.b2 = OwnedTensor({out});
  m.before_tanh = OwnedTensor({length_, width});
  m.hidden = OwnedTensor({length_, width});
  m.dvalues = OwnedTensor({model_.config().layers, 2, length_, in});
  OwnedTensor* const tensors[] = {&m.embedding, &m.w1, &m.b1, &m.w2, &m.b2};
  const char* const names[] = {"embedding", "mlp.0.weight", "mlp.0.bias", "mlp.2.weight", "mlp.2.bias"};
  for (int i = 0; i < 5; ++i) {
    m.params[i].name = std::string("prefix.") + names[i];
    m.params[i].value = tensors[i]->view;
    m.params[i].decay = i != 2 && i != 4;
  }
  FillNormal(seed, 0x707265, m.embedding.view);
  FillUniform(seed, 0x707266, in, m.w1.view);
  FillUniform(seed, 0x707267, in, m.b1.view);
  if (zero) return;  // a last layer of zeros gives zeros, whatever comes before it
  FillUniform(seed, 0x707268, width, m.w2.view);
  FillUniform(seed, 0x707269, width, m.b2.view);
}

// The paper's code fits all of the MLP to the text's keys and values with Adam. With the embedding and the first layer left
// random, the last layer has a closed form: b2 the mean of the rows, w2 of least norm among those of least squared error.
// It is exact where the MLP is as wide as the prefix is long.
void PrefixGraft::FitMlp() {
  Mlp& m = *mlp_;
  const OwnedTensor wanted = std::move(values_);
  values_ = OwnedTensor({model_.config().layers, 2, length_, columns()});
  RunMlp();  // for its hidden rows
  using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const int64_t width = m.hidden.view.columns(), out = m.b2.view.size();
  Matrix target(length_, out), hidden(length_, width);
  for (int64_t row = 0; row < length_; ++row) {
    for (int64_t i = 0; i < width; ++i) hidden(row, i) = static_cast<double>(m.hidden.view.row(row)[i]);
    for (int64_t part = 0; part < out / columns(); ++part) {
      const float* const values = wanted.view.f32() + (part * length_ + row) * columns();
      for (int64_t i = 0; i < columns(); ++i) target(row, part * columns() + i) = static_cast<double>(values[i]);
    }
  }
  const Eigen::RowVectorXd mean = target.colwise().mean();
  target.rowwise() -= mean;
  const Matrix fitted = hidden.completeOrthogonalDecomposition().solve(target);  // [width, out]
  for (int64_t i = 0; i < out; ++i) {
    m.b2.view.f32()[i] = static_cast<float>(mean(i));
    for (int64_t j = 0; j < width; ++j) m.w2.view.row(i)[j] = static_cast<float>(fitted(j, i));
  }
}

void PrefixGraft::RunMlp() {
  Mlp& m = *mlp_;
  ThreadPool& pool = model_.pool();
  Workspace ws;
  const int64_t out = m.b2.view.size();
  Gemm(pool, ws, Compute::kF32, false, true, 1, m.embedding.view, m.w1.view, 0, m.before_tanh.view);
  AddBias(pool, m.b1.view, m.before_tanh.view);
  Activate(pool, Activation::kTanh, m.before_tanh.view, m.hidden.view);
  Tensor rows = ws.New({length_, out});
  Gemm(pool, ws, Compute::kF32, false, true, 1, m.hidden.view, m.w2.view, 0, rows);
  AddBias(pool, m.b2.view, rows);
  for (int64_t part = 0; part < out / columns(); ++part) {
    for (int64_t row = 0; row < length_; ++row) {
      std::copy_n(rows.row(row) + part * columns(), columns(), values_.view.f32() + (part * length_ + row) * columns());
    }
  }
}

void PrefixGraft::MlpBackward() {
  Mlp& m = *mlp_;
  ThreadPool& pool = model_.pool();
  Workspace ws;
  const int64_t out = m.b2.view.size(), width = m.hidden.view.columns();
  Tensor drows = ws.New({length_, out});
  for (int64_t part = 0; part < out / columns(); ++part) {
    for (int64_t row = 0; row < length_; ++row) {
      std::copy_n(m.dvalues.view.f32() + (part * length_ + row) * columns(), columns(),
                  drows.row(row) + part * columns());
    }
  }
  Tensor dhidden = ws.New({length_, width});
  Gemm(pool, ws, Compute::kF32, false, false, 1, drows, m.w2.view, 0, dhidden);
  Gemm(pool, ws, Compute::kF32, true, false, 1, drows, m.hidden.view, 1, m.params[3].grad);
  BiasBackward(pool, drows, m.params[4].grad);
  ActivateBackward(pool, Activation::kTanh, dhidden, m.before_tanh.view, dhidden);
  Gemm(pool, ws, Compute::kF32, false, false, 1, dhidden, m.w1.view, 1, m.params[0].grad);
  Gemm(pool, ws, Compute::kF32, true, false, 1, dhidden, m.embedding.view, 1, m.params[1].grad);
  BiasBackward(pool, dhidden, m.params[2].grad);
}

}  // namespace cambium
