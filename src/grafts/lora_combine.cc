#include <Eigen/Dense>
#include <algorithm>
#include <cmath>

#include "cambium/error.h"
#include "grafts/lora.h"

namespace cambium {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Map = Eigen::Map<Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>;

Map View(Tensor t) { return Map(t.f32(), t.rows(), t.columns()); }

struct Thin {
  Matrix q, r;  // [rows, columns], [columns, columns]; fewer where there are fewer rows
};
Thin ThinQr(const Matrix& m) {
  const Eigen::HouseholderQR<Matrix> qr(m);
  const int64_t width = std::min(m.rows(), m.cols());
  return {qr.householderQ() * Matrix::Identity(m.rows(), width),
          qr.matrixQR().topRows(width).triangularView<Eigen::Upper>()};
}

}  // namespace

LoraGraft::Factors LoraGraft::FactorsOf(const Term& term) {
  if (!term.a_start.view) return {term.a.value, term.b.value, {}, {}};
  Factors f;
  f.a_memory = OwnedTensor({2 * term.rank, term.in});
  f.b_memory = OwnedTensor({term.out, 2 * term.rank});
  f.a = f.a_memory.view;
  f.b = f.b_memory.view;
  View(f.a) << View(term.a.value), View(term.a_start.view);
  View(f.b) << View(term.b.value), -View(term.b_start.view);
  return f;
}

std::unique_ptr<LoraGraft> LoraGraft::Combine(std::span<const LoraGraft* const> parts, const BaseModel& model,
                                              int64_t rank, double* kept) {
  GraftOptions options;
  options.rank = 0;
  double squares = 0, stay = 0;
  std::vector<std::unique_ptr<Term>> terms;
  for (const Site site : model.weights().sites()) {
    std::vector<Factors> factors;
    std::vector<float> scales;
    int64_t total = 0;
    for (const LoraGraft* part : parts) {
      if (part->options_.dora) Fail(ErrorCode::kUsage, "a DoRA adapter cannot be added to another; merge it instead");
      const Term* const term = part->Find(site);
      if (term == nullptr) continue;
      factors.push_back(FactorsOf(*term));
      scales.push_back(term->scale);
      total += factors.back().a.rows();
    }
    if (total == 0) continue;
    const Linear& linear = Base(model, site);
    auto stacked = MakeTerm(model, site, total, 1);
    int64_t at = 0;
    for (size_t i = 0; i < factors.size(); ++i) {
      const int64_t r = factors[i].a.rows();
      View(stacked->a.value).middleRows(at, r) = View(factors[i].a);
      View(stacked->b.value).middleCols(at, r) = scales[i] * View(factors[i].b);
      at += r;
    }
    if (rank > 0 && rank < total) {
      // B A = Qb (Rb Ra^T) Qa^T: the singular values of a matrix of the stacked rank.
      const Thin b = ThinQr(View(stacked->b.value).cast<double>());
      const Thin a = ThinQr(View(stacked->a.value).transpose().cast<double>());
      const Eigen::JacobiSVD<Eigen::MatrixXd, Eigen::HouseholderQRPreconditioner> svd(
          b.r * a.r.transpose(), Eigen::ComputeThinU | Eigen::ComputeThinV);
      const int64_t width = std::min<int64_t>(rank, svd.singularValues().size());
      const Eigen::VectorXd roots = svd.singularValues().head(width).cwiseSqrt();
      squares += svd.singularValues().squaredNorm();
      stay += svd.singularValues().head(width).squaredNorm();
      stacked = MakeTerm(model, site, width, 1);
      const Matrix up = b.q * svd.matrixU().leftCols(width) * roots.asDiagonal();
      const Matrix down = roots.asDiagonal() * svd.matrixV().leftCols(width).transpose() * a.q.transpose();
      Check(up.rows() == linear.out() && down.cols() == linear.in(), "the cut product keeps its shape");
      View(stacked->b.value) = up.cast<float>();
      View(stacked->a.value) = down.cast<float>();
    }
    options.rank = std::max(options.rank, stacked->rank);
    terms.push_back(std::move(stacked));
  }
  options.alpha = static_cast<double>(options.rank);
  options.base = parts.front()->options_.base;
  if (kept != nullptr) *kept = squares > 0 ? stay / squares : 1;
  return std::unique_ptr<LoraGraft>(new LoraGraft(model, options, std::move(terms)));
}

std::unique_ptr<LoraGraft> LoraGraft::FromTerms(const BaseModel& model, std::vector<RawTerm> terms,
                                                const std::string& base) {
  GraftOptions options;
  options.rank = 0;
  options.base = base;
  std::vector<std::unique_ptr<Term>> made;
  for (RawTerm& from : terms) {
    made.push_back(MakeTerm(model, from.site, from.a.view.rows(), 1));
    View(made.back()->a.value) = View(from.a.view);
    View(made.back()->b.value) = View(from.b.view);
    options.rank = std::max(options.rank, made.back()->rank);
  }
  options.alpha = static_cast<double>(options.rank);
  return std::unique_ptr<LoraGraft>(new LoraGraft(model, options, std::move(made)));
}

}  // namespace cambium
