#include "train/gradients.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "ops/ops.h"
#include "ops/ranges.h"

namespace cambium {
namespace {

int64_t RoundUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

void Clear(Tensor x) { std::memset(x.data, 0, static_cast<size_t>(x.bytes())); }

}  // namespace

ParameterLayout::ParameterLayout(std::span<Parameter* const> params, int ranks) {
  for (const Parameter* param : params) {
    begins.push_back(size);
    size += RoundUp(param->value.size(), kAlign);
  }
  const int64_t pieces = RoundUp(size, kPiece) / kPiece;
  for (int r = 0; r <= ranks; ++r) borders.push_back(std::min(size, pieces * r / ranks * kPiece));
}

Gradients::Gradients(ThreadPool& pool, std::vector<Parameter*> params, Ranks* ranks)
    : pool_(pool),
      params_(std::move(params)),
      ranks_(ranks),
      layout_(params_, ranks == nullptr ? 1 : ranks->size()),
      grads_({layout_.size}) {
  if (ranks_ != nullptr) sum_ = OwnedTensor({own_end() - own_begin()});
  for (Parameter* param : params_) param->grad = param->value;
  PointAtSum();
}

void Gradients::PointAtSum() {
  for (size_t i = 0; i < params_.size(); ++i) params_[i]->grad.data = grads_.view.f32() + layout_.begins[i];
}

void Gradients::Add(std::span<const float> values, float* to) const {
  const auto size = static_cast<int64_t>(values.size());
  cambium::Add(pool_, Tensor(const_cast<float*>(values.data()), {size}), Tensor(to, {size}));
}

void Gradients::BeginRound(int64_t first) {
  PointAtSum();
  if (ranks_ != nullptr || first == 0) Clear(grads_.view);
  if (ranks_ != nullptr && first == 0) Clear(sum_.view);
  if (ranks_ != nullptr || first == 0) return;
  if (!beside_.view) beside_ = OwnedTensor({bytes_beside() / int64_t{sizeof(float)}});
  Clear(beside_.view);
  float* next = beside_.view.f32();
  for (Parameter* param : params_) {
    if (param->adds_once) continue;
    param->grad.data = next;
    next += RoundUp(param->grad.size(), ParameterLayout::kAlign);
  }
}

void Gradients::EndRound(int64_t first, int64_t count) {
  if (ranks_ != nullptr) {
    const int senders = static_cast<int>(std::min<int64_t>(ranks_->size(), count - first));
    ranks_->ToOwners(room(), layout_.borders, senders, [&](int64_t begin, std::span<const float> values) {
      Add(values, sum_.view.f32() + begin - own_begin());
    });
    return;
  }
  if (first == 0) return;
  for (size_t i = 0; i < params_.size(); ++i) {
    const Tensor& grad = params_[i]->grad;
    if (params_[i]->adds_once) continue;
    Add({grad.f32(), static_cast<size_t>(grad.size())}, grads_.view.f32() + layout_.begins[i]);
  }
  PointAtSum();
}

Tensor Gradients::sum() const { return ranks_ == nullptr ? grads_.view : sum_.view; }

double Gradients::SquaredNorm() const {
  const Tensor own = sum();
  std::vector<double> pieces(
      static_cast<size_t>(RoundUp(own.size(), ParameterLayout::kPiece) / ParameterLayout::kPiece));
  ForRanges(pool_, own.size(), ParameterLayout::kPiece, [&](int64_t begin, int64_t end) {
    // A piece is one task, which runs inline.
    pieces[static_cast<size_t>(begin / ParameterLayout::kPiece)] =
        cambium::SquaredNorm(pool_, Tensor(own.f32() + begin, {end - begin}));
  });
  if (ranks_ == nullptr) return std::accumulate(pieces.begin(), pieces.end(), 0.0);
  double total = 0;
  for (const std::string& theirs :
       ranks_->Gather({reinterpret_cast<const char*>(pieces.data()), pieces.size() * sizeof(double)})) {
    for (size_t at = 0; at < theirs.size(); at += sizeof(double)) {
      double piece = 0;
      std::memcpy(&piece, theirs.data() + at, sizeof(double));
      total += piece;
    }
  }
  return total;
}

int64_t Gradients::bytes() const {
  return static_cast<int64_t>(grads_.buffer.bytes() + sum_.buffer.bytes() + beside_.buffer.bytes());
}

int64_t Gradients::bytes_beside() const {
  if (ranks_ != nullptr) return 0;
  int64_t size = 0;
  for (const Parameter* param : params_) {
    if (!param->adds_once) size += RoundUp(param->value.size(), ParameterLayout::kAlign);
  }
  return size * int64_t{sizeof(float)};
}

}  // namespace cambium
