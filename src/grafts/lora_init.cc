// PiSSA's beginning: the leading singular part of each matrix, by randomised subspace iteration (Halko, Martinsson &
// Tropp 2011, algorithm 4.4).
#include <Eigen/Dense>
#include <algorithm>

#include "base/random.h"
#include "grafts/lora.h"
#include "tensor/half.h"

namespace cambium {
namespace {

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

Matrix Orthonormal(const Matrix& m) {
  return Eigen::HouseholderQR<Matrix>(m).householderQ() * Matrix::Identity(m.rows(), m.cols());
}

}  // namespace

void LoraGraft::StartFromSingularVectors() {
  constexpr int64_t kMore = 8;  // directions beyond the rank, and rounds: together about three digits
  constexpr int kRounds = 4;
  model_.pool().Run(static_cast<int64_t>(terms_.size()), [&](int64_t index, int) {
    Term& term = *terms_[static_cast<size_t>(index)];
    const PackedMatrix& packed = Base(model_, term.site).w;
    Matrix w(term.out, term.in);
    for (int64_t o = 0; o < term.out; ++o) packed.UnpackRow(o, w.row(o).data());
    const int64_t width = std::min(term.rank + kMore, std::min(term.in, term.out));
    const Philox noise(options_.seed);
    Matrix basis(term.in, width);
    for (int64_t i = 0; i < basis.size(); ++i) {
      basis.data()[i] = static_cast<float>(noise.Normal(static_cast<uint64_t>(i), 0x70697373));
    }
    for (int round = 0; round < kRounds; ++round) basis = Orthonormal(w.transpose() * Orthonormal(w * basis));
    const Eigen::JacobiSVD<Eigen::MatrixXf, Eigen::HouseholderQRPreconditioner> svd(
        w * basis, Eigen::ComputeThinU | Eigen::ComputeThinV);
    const Matrix right = basis * svd.matrixV();  // [in, width]
    term.a_start = OwnedTensor({term.rank, term.in});
    term.b_start = OwnedTensor({term.out, term.rank});
    // Rounded to what 16-bit working weights hold, so that mixed precision too begins at exactly the base.
    const auto rounded = [](float value) { return BFloat16ToFloat(FloatToBFloat16(value)); };
    for (int64_t k = 0; k < std::min(term.rank, width); ++k) {
      const float root = std::sqrt(svd.singularValues()(k) / term.scale);
      for (int64_t i = 0; i < term.in; ++i) term.a_start.view.row(k)[i] = rounded(root * right(i, k));
      for (int64_t o = 0; o < term.out; ++o) term.b_start.view.row(o)[k] = rounded(root * svd.matrixU()(o, k));
    }
    std::copy_n(term.a_start.view.f32(), term.a_start.view.size(), term.a.value.f32());
    std::copy_n(term.b_start.view.f32(), term.b_start.view.size(), term.b.value.f32());
  });
}

}  // namespace cambium
