#include "train/heads_loss.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "cambium/error.h"
#include "train/loss_head.h"

namespace cambium {
namespace {

constexpr int32_t kNothing = -1, kNotDrafted = -2;

int64_t Rows(const Example& example) { return static_cast<int64_t>(example.ids.size()); }

}  // namespace

void HeadAccuracy::Count(size_t depth, std::span<const int32_t> ranks) {
  for (const int32_t rank : ranks) {
    if (rank < -1) continue;
    ++rows[depth];
    if (rank >= 0 && rank < static_cast<int32_t>(kRanks)) ++hits[depth][static_cast<size_t>(rank)];
  }
}

HeadsLoss::HeadsLoss(Transformer& model, Heads& heads, Compute compute, const HeadsOptions& options,
                     std::vector<std::span<const Example>> known, const std::string& directory)
    : model_(model),
      heads_(heads),
      compute_(compute),
      options_(options),
      known_(std::move(known)),
      accuracy_(heads.depths()),
      along_(heads.depths()) {
  const std::span<const int32_t> ids = heads.draft_tokens();
  draft_row_.assign(static_cast<size_t>(model.config().vocab), ids.empty() ? 0 : kNotDrafted);
  for (size_t i = 0; i < (ids.empty() ? draft_row_.size() : ids.size()); ++i) {
    draft_row_[ids.empty() ? i : static_cast<size_t>(ids[i])] = static_cast<int32_t>(i);
  }
  if (!directory.empty() && options.cache_gb > 0) CacheFile(directory);
}

HeadsLoss::~HeadsLoss() {
  if (cache_ != nullptr) munmap(cache_, static_cast<size_t>(cache_bytes_));
  if (descriptor_ >= 0) close(descriptor_);
}

void HeadsLoss::CacheFile(const std::string& directory) {
  int64_t rows = 0;
  for (const std::span<const Example> data : known_) {
    for (const Example& example : data) rows += Rows(example);
  }
  const int64_t bound = static_cast<int64_t>(options_.cache_gb * 1e9);
  cache_bytes_ = std::min(bound, rows * RowBytes());
  std::string path = directory + "/hidden.XXXXXX";
  descriptor_ = mkstemp(path.data());
  if (descriptor_ < 0) Fail(ErrorCode::kResource, path, ": cannot write: ", std::strerror(errno));
  unlink(path.c_str());
  if (const int error = posix_fallocate(descriptor_, 0, cache_bytes_); error != 0) {
    Fail(ErrorCode::kResource, directory, ": no room for ", cache_bytes_ >> 20, " MiB of hidden states (",
         std::strerror(error), "); lower --cache-gb");
  }
  void* const memory = mmap(nullptr, static_cast<size_t>(cache_bytes_), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor_, 0);
  if (memory == MAP_FAILED) Fail(ErrorCode::kResource, directory, ": cannot map the hidden states: ", std::strerror(errno));
  cache_ = static_cast<uint8_t*>(memory);
}

bool HeadsLoss::Known(const Example* example) const {
  return std::any_of(known_.begin(), known_.end(), [&](std::span<const Example> data) {
    return !data.empty() && example >= data.data() && example < data.data() + data.size();
  });
}

uint8_t* HeadsLoss::CachePlace(const Example* example, bool reserve) {
  if (const auto found = places_.find(example); found != places_.end()) return cache_ + found->second;
  const int64_t bytes = Rows(*example) * RowBytes();
  if (!reserve || cache_ == nullptr || !Known(example) || cache_used_ + bytes > cache_bytes_) return nullptr;
  places_[example] = cache_used_;
  cache_used_ += bytes;
  return cache_ + cache_used_ - bytes;
}

void HeadsLoss::Forget(const uint8_t* place, int64_t bytes) {
  const int64_t page = sysconf(_SC_PAGESIZE), begin = (place - cache_) / page * page, end = place - cache_ + bytes;
  madvise(cache_ + begin, static_cast<size_t>(end - begin), MADV_DONTNEED);
}

int64_t HeadsLoss::RowBytes() const {
  const int64_t states = heads_.after_layer() >= 0 && LearnsFeatures() ? 2 : 1;
  return states * 2 * model_.config().hidden + static_cast<int64_t>(sizeof(int32_t));
}

std::vector<std::span<uint8_t>> HeadsLoss::Parts(int64_t begin, int64_t count) {
  std::vector<std::span<uint8_t>> parts;
  for (const Tensor& part : {hidden_.view, final_.view}) {
    if (!part) continue;
    const Tensor rows = part.Rows(begin, count);
    parts.emplace_back(rows.as<uint8_t>(), static_cast<size_t>(rows.bytes()));
  }
  parts.emplace_back(reinterpret_cast<uint8_t*>(said_.data() + begin), static_cast<size_t>(count) * sizeof(int32_t));
  return parts;
}

void HeadsLoss::Trunk(const std::vector<const Example*>& micro) {
  const int64_t width = model_.config().hidden;
  int64_t rows = 0;
  for (const Example* example : micro) rows += Rows(*example);
  if (!hidden_.view || hidden_.view.rows() < rows) {
    hidden_ = OwnedTensor(DType::kF16, {rows, width});
    if (heads_.after_layer() >= 0 && LearnsFeatures()) final_ = OwnedTensor(DType::kF16, {rows, width});
  }
  said_.resize(static_cast<size_t>(rows));
  std::vector<const Example*> missing;
  std::vector<int64_t> begins;
  int64_t begin = 0;
  for (const Example* example : micro) {
    if (const uint8_t* place = CachePlace(example, false); place != nullptr) {
      const uint8_t* from = place;
      for (const std::span<uint8_t> part : Parts(begin, Rows(*example))) {
        std::memcpy(part.data(), from, part.size());
        from += part.size();
      }
      Forget(place, from - place);
    } else {
      missing.push_back(example);
      begins.push_back(begin);
    }
    begin += Rows(*example);
  }
  if (!missing.empty()) RunTrunk(missing, begins);
}

void HeadsLoss::RunTrunk(const std::vector<const Example*>& micro, const std::vector<int64_t>& begins) {
  const int64_t layer = heads_.after_layer();
  int64_t prefix = 0;
  std::vector<int32_t> prompt;
  for (const Graft* graft : options_.trunk) {
    prefix += graft->prefix_length();
    for (int64_t i = 0; i < graft->prompt_length(); ++i) prompt.push_back(static_cast<int32_t>(-1 - i));
  }
  const int64_t before = static_cast<int64_t>(prompt.size());
  Pass pass;
  pass.compute = Compute::kInt8;
  for (size_t i = 0; i < micro.size(); ++i) {
    std::vector<int32_t> ids = prompt;
    ids.insert(ids.end(), micro[i]->ids.begin(), micro[i]->ids.end());
    pass.Append(static_cast<int>(i), prefix, ids).grafts = options_.trunk;
  }
  if (layer >= 0) pass.capture = {layer};
  if (layer >= 0 && !options_.teacher) pass.layers = layer + 1;
  model_.Forward(pass);
  const Tensor states = layer >= 0 ? pass.result.captured[0] : pass.result.hidden;
  for (size_t i = 0; i < micro.size(); ++i) {
    const int64_t begin = pass.segments[i].begin + before, count = Rows(*micro[i]);
    Convert(model_.pool(), states.Rows(begin, count), hidden_.view.Rows(begins[i], count));
    if (final_.view) Convert(model_.pool(), pass.result.hidden.Rows(begin, count), final_.view.Rows(begins[i], count));
    int32_t* const said = said_.data() + begins[i];
    constexpr int64_t kChunk = 128;
    for (int64_t at = 0; at < count && options_.teacher; at += kChunk) {
      const int64_t chunk = std::min(kChunk, count - at);
      const Workspace::Mark mark = model_.workspace().GetMark();
      Tensor logits = model_.workspace().New({chunk, model_.config().vocab});
      model_.Head(Compute::kInt8, pass.result.hidden.Rows(begin + at, chunk), logits);
      model_.pool().Run(chunk, [&](int64_t row, int) {
        said[at + row] =
            static_cast<int32_t>(std::max_element(logits.row(row), logits.row(row) + logits.columns()) - logits.row(row));
      });
      model_.workspace().Release(mark);
    }
    if (uint8_t* const place = CachePlace(micro[i], true); place != nullptr) {
      uint8_t* to = place;
      for (const std::span<uint8_t> part : Parts(begins[i], count)) {
        std::memcpy(to, part.data(), part.size());
        to += part.size();
      }
      Forget(place, to - place);
    }
  }
}

std::vector<int32_t> HeadsLoss::Targets(const std::vector<const Example*>& micro, int64_t depth) const {
  std::vector<int32_t> targets;
  int64_t begin = 0;
  for (const Example* example : micro) {
    for (int64_t row = 0; row < Rows(*example); ++row) {
      const int64_t place = row + heads_.first() + depth;  // of the token that is guessed
      int32_t target = kNothing;
      if (place < Rows(*example) && example->trained[static_cast<size_t>(place)] != 0) {
        const int32_t token = options_.teacher ? said_[static_cast<size_t>(begin + place) - 1]
                                               : example->ids[static_cast<size_t>(place)];
        target = draft_row_[static_cast<size_t>(token)];
      }
      targets.push_back(target);
    }
    begin += Rows(*example);
  }
  return targets;
}

double HeadsLoss::Loss(int64_t depth, const std::vector<int32_t>& targets, float row_weight, Tensor features,
                       Tensor dfeatures, std::span<int32_t> ranks) {
  const float share = std::pow(options_.decay, static_cast<float>(depth));
  std::ranges::transform(targets, ranks.begin(), [](int32_t target) { return target == kNothing ? -2 : -1; });
  const LossReadout readout = {&heads_.readout(depth), ranks};
  Tensor dreadout;
  if (dfeatures) dreadout = heads_.readout_gradient(depth);
  const bool shared = &heads_.readout(depth) == &model_.weights().head();
  if (dfeatures && shared && options_.owner != nullptr) dreadout = options_.owner->HeadGradient();
  double loss = LossHead(model_, compute_, features, targets, row_weight * share, dfeatures, dreadout, readout);
  if (LearnsFeatures()) loss += FeatureLoss(depth, targets, row_weight * share, features, dfeatures);
  return static_cast<double>(share) * loss;
}

double HeadsLoss::FeatureLoss(int64_t depth, const std::vector<int32_t>& targets, float row_weight, Tensor features,
                              Tensor dfeatures) {
  const int64_t rows = features.rows(), width = features.columns();
  const Workspace::Mark mark = model_.workspace().GetMark();
  Tensor wanted = model_.workspace().New({rows, width});
  Convert(model_.pool(), (final_.view ? final_ : hidden_).view.Rows(0, rows), wanted);
  std::vector<double> loss(targets.size());
  model_.pool().Run(rows, [&](int64_t row, int) {
    if (targets[static_cast<size_t>(row)] == kNothing) return;
    const float* const f = features.row(row);
    const float* const h = wanted.row(row + heads_.first() + depth - 1);
    double power = 0, distance = 0;
    for (int64_t i = 0; i < width; ++i) {
      power += static_cast<double>(h[i] * h[i]);
      distance += static_cast<double>((f[i] - h[i]) * (f[i] - h[i]));
    }
    const double weight = static_cast<double>(options_.feature_weight) / std::max(power, 1e-12);
    loss[static_cast<size_t>(row)] = weight * distance;
    if (!dfeatures) return;
    const float slope = row_weight * 2 * static_cast<float>(weight);
    for (int64_t i = 0; i < width; ++i) dfeatures.row(row)[i] += slope * (f[i] - h[i]);
  });
  model_.workspace().Release(mark);
  return std::accumulate(loss.begin(), loss.end(), 0.0);
}

Tensor HeadsLoss::Teacher(const std::vector<const Example*>& micro) {
  Trunk(micro);
  return Tensor(hidden_.view.data, DType::kF16, {static_cast<int64_t>(said_.size()), model_.config().hidden});
}

double HeadsLoss::Run(const std::vector<const Example*>& micro, float row_weight) {
  const Tensor stored = Teacher(micro);
  model_.workspace().Reset();
  Tensor states = model_.workspace().New({stored.rows(), stored.columns()});
  Convert(model_.pool(), stored, states);
  return RunOn(micro, states, row_weight, {});
}

double HeadsLoss::RunOn(const std::vector<const Example*>& micro, Tensor hidden, float row_weight, Tensor dhidden) {
  Workspace& ws = model_.workspace();
  std::vector<int32_t> ids;
  std::vector<int64_t> lengths;
  for (const Example* example : micro) {
    ids.insert(ids.end(), example->ids.begin(), example->ids.end());
    lengths.push_back(Rows(*example));
  }
  const int64_t rows = static_cast<int64_t>(ids.size()), width = model_.config().hidden;
  const size_t depths = static_cast<size_t>(heads_.depths());
  const bool train = row_weight > 0, chained = heads_.chained();
  const GraftContext context = {model_.pool(), ws, compute_, nullptr};

  // The newest token known to depth d at row t of a text is t + 1 + d.
  std::vector<std::vector<int32_t>> tokens(depths);
  for (size_t d = 0; d < depths; ++d) {
    for (const Example* example : micro) {
      for (size_t t = 0; t < example->ids.size(); ++t) {
        tokens[d].push_back(t + 1 + d < example->ids.size() ? example->ids[t + 1 + d] : 0);
      }
    }
  }
  std::vector<HeadStep> steps(depths);
  std::vector<Tensor> features(depths), states(depths);
  std::vector<std::vector<int32_t>> ranks(depths, std::vector<int32_t>(ids.size()));
  double loss = 0;
  const auto lose = [&](size_t d, Tensor dstate, Tensor dinput) {
    const int64_t depth = static_cast<int64_t>(d);
    Tensor dfeatures = train ? ws.New({rows, width}) : Tensor();
    loss += Loss(depth, Targets(micro, depth), row_weight, features[d], dfeatures, ranks[d]);
    if (!train) return;
    const bool to_trunk = dhidden && (!chained || d == 0);
    if (to_trunk) dinput = ws.New({rows, width});
    heads_.Backward(context, depth, steps[d], dfeatures, dstate, dinput);
    if (to_trunk) Add(model_.pool(), dinput, dhidden);
  };
  for (size_t d = 0; d < depths; ++d) {
    const Workspace::Mark mark = ws.GetMark();
    steps[d] = {chained && d > 0 ? states[d - 1] : hidden, tokens[d], lengths};
    if (train && options_.owner != nullptr) steps[d].dembedding = options_.owner->EmbeddingGradient();
    features[d] = ws.New({rows, width});
    if (chained) states[d] = ws.New({rows, width});
    heads_.Forward(context, static_cast<int64_t>(d), steps[d], features[d], states[d]);
    if (chained) continue;
    lose(d, {}, {});
    ws.Release(mark);
  }
  Tensor dstate;
  for (size_t d = depths; chained && d-- > 0;) {
    Tensor dinput = train && d > 0 ? ws.New({rows, width}) : Tensor();
    lose(d, dstate, dinput);
    dstate = dinput;
  }
  for (size_t d = 0; d < depths; ++d) {
    accuracy_.Count(d, ranks[d]);
    for (size_t row = 0; row < ids.size() && d > 0; ++row) {
      if (ranks[d - 1][row] != 0) ranks[d][row] = -2;
    }
    along_.Count(d, ranks[d]);
  }
  return loss;
}

}  // namespace cambium
