#include "grafts/extract.h"

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>
#include <cstring>

#include "cambium/error.h"

namespace cambium {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

void CheckShapes(const std::string& name, const PackedMatrix& base, const PackedMatrix& tuned) {
  if (base.out() == tuned.out() && base.in() == tuned.in()) return;
  Fail(ErrorCode::kData, "tuned model: ", name, " is ", tuned.out(), " x ", tuned.in(), ", the base's is ", base.out(),
       " x ", base.in());
}

// tuned - base; empty where they are the same.
Matrix DifferenceOf(const PackedMatrix& base, const PackedMatrix& tuned) {
  Matrix difference(base.out(), base.in());
  std::vector<float> before(static_cast<size_t>(base.in())), after(before.size());
  bool changed = false;
  for (int64_t o = 0; o < base.out(); ++o) {
    base.UnpackRow(o, before.data());
    tuned.UnpackRow(o, after.data());
    for (int64_t i = 0; i < base.in(); ++i) {
      const size_t at = static_cast<size_t>(i);
      difference(o, i) = double{after[at]} - double{before[at]};
      changed |= after[at] != before[at];
    }
  }
  return changed ? difference : Matrix();
}

int64_t RankFor(const std::vector<double>& squares, double wanted) {
  double sum = 0;
  for (size_t i = 0; i < squares.size(); ++i) {
    sum += squares[i];
    if (sum >= wanted) return static_cast<int64_t>(i) + 1;
  }
  return static_cast<int64_t>(squares.size());
}

}  // namespace

WeightDelta::WeightDelta(const BaseModel& base, const ModelWeights& tuned, int64_t rank, double energy)
    : base_(base), tuned_(tuned) {
  const ModelWeights& before = base.weights();
  const ModelConfig &c = before.config, &t = tuned.config;
  if (c.experts > 0) Fail(ErrorCode::kUsage, "a mixture of experts has no delta; ", c.family, " is one");
  if (c.learned_positions) Fail(ErrorCode::kUsage, "a model with learned positions (GPT-2) has no delta");
  if (c.family != t.family || c.layers != t.layers || c.heads != t.heads || c.kv_heads != t.kv_heads ||
      c.tied_head != t.tied_head) {
    Fail(ErrorCode::kData, "tuned model: ", t.family, " of ", t.layers, " layers, ", t.heads, " heads, ", t.kv_heads,
         " key heads", t.tied_head ? " and a tied head" : "", "; the base is ", c.family, " of ", c.layers, " layers, ",
         c.heads, " heads, ", c.kv_heads, " key heads", c.tied_head ? " and a tied head" : "");
  }
  CheckShapes("embedding", before.embedding, tuned.embedding);
  const int64_t sites = c.layers * kSiteKinds;
  std::vector<Spectrum> spectra(static_cast<size_t>(sites));
  std::vector<Factors> factors(static_cast<size_t>(sites));
  const auto linear = [](const ModelWeights& weights, int64_t index) -> const Linear& {
    return weights.blocks[static_cast<size_t>(index / kSiteKinds)].linears[index % kSiteKinds];
  };
  const auto site_of = [](int64_t index) {
    return Site{static_cast<int>(index / kSiteKinds), static_cast<SiteKind>(index % kSiteKinds)};
  };
  for (int64_t index = 0; index < sites; ++index) {
    const Site site = site_of(index);
    if (!linear(before, index).w) continue;
    CheckShapes("layers." + std::to_string(site.layer) + "." + SiteName(site.kind), linear(before, index).w,
                linear(tuned, index).w);
  }
  base.pool().Run(sites, [&](int64_t index, int) {
    const PackedMatrix& w = linear(before, index).w;
    if (!w) return;
    const Matrix difference = DifferenceOf(w, linear(tuned, index).w);
    if (difference.size() == 0) return;
    const bool wide = difference.cols() > difference.rows();
    const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> eigen(
        wide ? Eigen::MatrixXd(difference * difference.transpose())
             : Eigen::MatrixXd(difference.transpose() * difference));
    Spectrum& spectrum = spectra[static_cast<size_t>(index)];
    spectrum.site = site_of(index);
    const Eigen::VectorXd& values = eigen.eigenvalues();  // smallest first
    for (int64_t i = values.size() - 1; i >= 0; --i) {
      spectrum.squares.push_back(std::max(0.0, values(i)));
      spectrum.energy += spectrum.squares.back();
    }
    const int64_t width = static_cast<int64_t>(spectrum.squares.size());
    spectrum.kept = rank > 0 ? std::min(rank, width) : RankFor(spectrum.squares, energy * spectrum.energy);
    // Singular values that rounding of the Gram matrix drowns have no vectors.
    while (spectrum.kept > 1 &&
           spectrum.squares[static_cast<size_t>(spectrum.kept) - 1] < 1e-15 * spectrum.squares[0]) {
      --spectrum.kept;
    }
    const Eigen::MatrixXd vectors = eigen.eigenvectors().rightCols(spectrum.kept).rowwise().reverse();
    const Matrix others = wide ? Matrix(difference.transpose() * vectors) : Matrix(difference * vectors);  // s_i apart
    Factors& f = factors[static_cast<size_t>(index)];
    f.a = OwnedTensor({spectrum.kept, w.in()});
    f.b = OwnedTensor({w.out(), spectrum.kept});
    for (int64_t k = 0; k < spectrum.kept; ++k) {
      const double root = std::pow(spectrum.squares[static_cast<size_t>(k)], 0.25);
      for (int64_t i = 0; i < w.in(); ++i) {
        f.a.view.row(k)[i] = static_cast<float>(wide ? others(i, k) / root : vectors(i, k) * root);
      }
      for (int64_t o = 0; o < w.out(); ++o) {
        f.b.view.row(o)[k] = static_cast<float>(wide ? vectors(o, k) * root : others(o, k) / root);
      }
    }
  });
  for (size_t index = 0; index < spectra.size(); ++index) {
    if (spectra[index].squares.empty()) continue;
    spectra_.push_back(std::move(spectra[index]));
    factors_.push_back(std::move(factors[index]));
  }
}

int64_t WeightDelta::max_rank() const {
  int64_t rank = 0;
  for (const Spectrum& spectrum : spectra_) rank = std::max(rank, spectrum.kept);
  return rank;
}

double WeightDelta::EnergyWithin(int64_t rank) const {
  double within = 0, all = 0;
  for (const Spectrum& spectrum : spectra_) {
    for (int64_t i = 0; i < std::min(rank, spectrum.kept); ++i) within += spectrum.squares[static_cast<size_t>(i)];
    all += spectrum.energy;
  }
  return all > 0 ? within / all : 1;
}

std::unique_ptr<LoraGraft> WeightDelta::Terms(int64_t rank, const std::string& base_name) const {
  if (spectra_.empty()) return nullptr;
  std::vector<LoraGraft::RawTerm> products;
  for (size_t i = 0; i < spectra_.size(); ++i) {
    const Tensor a = factors_[i].a.view, b = factors_[i].b.view;
    const int64_t kept = rank > 0 ? std::min(rank, a.rows()) : a.rows();
    LoraGraft::RawTerm& product = products.emplace_back();
    product.site = spectra_[i].site;
    product.a = OwnedTensor({kept, a.columns()});
    product.b = OwnedTensor({b.rows(), kept});
    std::copy_n(a.f32(), kept * a.columns(), product.a.view.f32());
    for (int64_t o = 0; o < b.rows(); ++o) std::copy_n(b.row(o), kept, product.b.view.row(o));
  }
  return LoraGraft::FromTerms(base_, std::move(products), base_name);
}

std::vector<TensorToWrite> WeightDelta::Whole() const {
  std::vector<TensorToWrite> whole;
  const auto vector = [&](const std::string& name, Tensor before, Tensor after) {
    if (!before && !after) return;
    if (before.size() != after.size()) {
      Fail(ErrorCode::kData, "tuned model: ", name, " has ", after.size(), " values, the base's has ", before.size());
    }
    if (std::memcmp(before.data, after.data, static_cast<size_t>(before.bytes())) == 0) return;
    whole.push_back({.name = name, .view = after});
  };
  const auto norm = [&](const std::string& name, const NormWeights& before, const NormWeights& after) {
    vector(name, before.gain.view, after.gain.view);
    vector(name + ".bias", before.bias.view, after.bias.view);
  };
  const auto matrix = [&](const std::string& name, const PackedMatrix& before, const PackedMatrix& after) {
    if (!before && !after) return;
    CheckShapes(name, before, after);
    if (DifferenceOf(before, after).size() == 0) return;
    TensorToWrite item = {.name = name, .view = Tensor()};
    item.view.dtype = DType::kF32;
    item.view.rank = 2;
    item.view.shape = {after.out(), after.in()};
    item.make = [&pool = base_.pool(), &after] {
      std::vector<uint8_t> bytes(static_cast<size_t>(after.out() * after.in()) * sizeof(float));
      after.Unpack(pool, Tensor(reinterpret_cast<float*>(bytes.data()), {after.out(), after.in()}));
      return bytes;
    };
    whole.push_back(std::move(item));
  };
  const ModelWeights &before = base_.weights(), &after = tuned_;
  matrix("embedding", before.embedding, after.embedding);
  matrix("head", before.separate_head, after.separate_head);
  norm(NormName(NormKind::kFinal), before.final_norm, after.final_norm);
  for (size_t layer = 0; layer < before.blocks.size(); ++layer) {
    const BlockWeights &b = before.blocks[layer], &a = after.blocks[layer];
    const std::string at = "layers." + std::to_string(layer) + ".";
    norm(at + NormName(NormKind::kAttention), b.attention_norm, a.attention_norm);
    norm(at + NormName(NormKind::kAttentionPost), b.attention_post_norm, a.attention_post_norm);
    norm(at + NormName(NormKind::kFfn), b.ffn_norm, a.ffn_norm);
    norm(at + NormName(NormKind::kFfnPost), b.ffn_post_norm, a.ffn_post_norm);
    norm(at + NormName(NormKind::kQ), b.q_norm, a.q_norm);
    norm(at + NormName(NormKind::kK), b.k_norm, a.k_norm);
    for (int kind = 0; kind < kSiteKinds; ++kind) {
      vector(at + SiteName(static_cast<SiteKind>(kind)) + ".bias", b.linears[kind].bias.view,
             a.linears[kind].bias.view);
    }
  }
  return whole;
}

}  // namespace cambium
