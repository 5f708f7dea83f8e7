// LoRA terms as files have them: a file may hold several linears in one tensor, which one pair of factors then adapts.
#include <algorithm>
#include <cstring>

#include "cambium/error.h"
#include "grafts/lora.h"
#include "model/load.h"

namespace cambium {
namespace {

bool Same(Tensor a, Tensor b) {
  return a.rows() == b.rows() && std::memcmp(a.data, b.data, static_cast<size_t>(a.bytes())) == 0;
}

}  // namespace

// Where all parts read through one A, so does the file's term; else their ranks stand side by side, which is exact.
LoraGraft::FileTerm LoraGraft::Joined(Dialect dialect, std::span<const std::unique_ptr<Term>> terms) const {
  const ModelConfig& config = model_.config();
  const TensorNames names = NamesOf(config, dialect);
  std::vector<Factors> factors;
  int64_t rank = 0;
  bool shared = true;
  for (const auto& term : terms) {
    factors.push_back(FactorsOf(*term));
    rank += factors.back().a.rows();
    shared = shared && Same(factors.back().a, factors.front().a);
  }
  if (shared) rank = factors.front().a.rows();
  const auto scaled = std::ranges::find_if(terms, [](const auto& term) { return term->scale != 0; });
  FileTerm file = {LinearStem(config, dialect, terms[0]->site), terms[0]->site, 1, {}, {}, {}};
  if (scaled != terms.end()) file.scale = (*scaled)->scale;
  const int64_t all = PlaceOf(config, names, terms[0]->site).all;
  file.a = OwnedTensor({rank, terms[0]->in});
  file.b = OwnedTensor({all, rank});
  if (options_.dora) file.magnitude = OwnedTensor({all});
  int64_t filled = 0, column = 0;
  for (size_t t = 0; t < terms.size(); ++t) {
    const Term& term = *terms[t];
    const Tensor a = factors[t].a, b = factors[t].b;
    const LinearPlace place = PlaceOf(config, names, term.site);
    const float ratio = term.scale / file.scale;
    std::copy_n(a.f32(), a.size(), file.a.view.row(column));
    for (int64_t o = 0; o < b.rows(); ++o) {
      const int64_t row = place.rows[static_cast<size_t>(o)];
      for (int64_t k = 0; k < b.columns(); ++k) file.b.view.row(row)[column + k] = ratio * b.row(o)[k];
      if (options_.dora) file.magnitude.view.f32()[row] = term.magnitude.value.f32()[o];
    }
    if (!shared) column += a.rows();
    filled += b.rows();
  }
  if (options_.dora && filled < all) {
    Fail(ErrorCode::kUsage, file.stem, " holds more linears than the adapter acts on: DoRA cannot be saved for a part");
  }
  return file;
}

std::vector<LoraGraft::FileTerm> LoraGraft::FileTerms(Dialect dialect) const {
  std::vector<FileTerm> files;
  const auto stem = [&](size_t t) { return LinearStem(model_.config(), dialect, terms_[t]->site); };
  for (size_t begin = 0; begin < terms_.size();) {
    size_t end = begin + 1;
    while (end < terms_.size() && stem(end) == stem(begin) && terms_[end]->site.expert < 0) ++end;
    files.push_back(Joined(dialect, std::span(terms_).subspan(begin, end - begin)));
    begin = end;
  }
  return files;
}

}  // namespace cambium
