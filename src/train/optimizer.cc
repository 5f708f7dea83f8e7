#include "train/optimizer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>

#include "ops/ops.h"

namespace cambium {
namespace {

// 8-bit moments: blocks of 256 values share their largest magnitude. m is stored as the signed square root, v as the
// fourth root of its share of it, which spends the codes on small values as the dynamic maps of Dettmers et al. ("8-bit
// optimizers via block-wise quantization", 2022) do. v rounds up, so that it never becomes zero beside a living m.
constexpr int64_t kMomentBlock = 256;

int64_t Blocks(int64_t size) { return (size + kMomentBlock - 1) / kMomentBlock; }

void DecodeMoments(const int8_t* m, const uint8_t* v, float m_scale, float v_scale, int64_t count, float* m_out,
                   float* v_out) {
  for (int64_t i = 0; i < count; ++i) {
    const float a = static_cast<float>(m[i]) / 127, b = static_cast<float>(v[i]) / 255;
    m_out[i] = a * std::fabs(a) * m_scale;
    v_out[i] = b * b * b * b * v_scale;
  }
}

void EncodeMoments(const float* m, const float* v, int64_t count, int8_t* m_out, uint8_t* v_out, float* m_scale,
                   float* v_scale) {
  float m_max = 0, v_max = 0;
  for (int64_t i = 0; i < count; ++i) {
    m_max = std::max(m_max, std::fabs(m[i]));
    v_max = std::max(v_max, v[i]);
  }
  *m_scale = m_max;
  *v_scale = v_max;
  for (int64_t i = 0; i < count; ++i) {
    const float a = m_max > 0 ? std::sqrt(std::fabs(m[i]) / m_max) * 127 : 0;
    const float b = v_max > 0 ? std::sqrt(std::sqrt(v[i] / v_max)) * 255 : 0;
    m_out[i] = static_cast<int8_t>(std::copysign(std::nearbyint(a), m[i]));
    v_out[i] = static_cast<uint8_t>(std::min(255.0f, std::ceil(b - 1e-3f)));
  }
}

OwnedTensor Packed(int64_t bytes) { return OwnedTensor(DType::kI32, {(bytes + 3) / 4}); }

static_assert(ParameterLayout::kAlign % kMomentBlock == 0);

}  // namespace

OptimizerOptions::Schedule ParseSchedule(std::string_view name) {
  if (name == "cosine") return OptimizerOptions::Schedule::kCosine;
  if (name == "linear") return OptimizerOptions::Schedule::kLinear;
  if (name == "constant") return OptimizerOptions::Schedule::kConstant;
  Fail(ErrorCode::kUsage, "schedule is \"", name, "\", expected cosine, linear or constant");
}

double LearningRate(const OptimizerOptions& options, int64_t step, int64_t steps) {
  const double lr = static_cast<double>(options.lr);
  if (step <= options.warmup) return lr * static_cast<double>(step) / static_cast<double>(options.warmup);
  const double span = static_cast<double>(std::max<int64_t>(1, steps - options.warmup));
  const double done = std::clamp(static_cast<double>(step - 1 - options.warmup) / span, 0.0, 1.0);
  switch (options.schedule) {
    case OptimizerOptions::Schedule::kCosine:
      return lr * 0.5 * (1 + std::cos(std::numbers::pi * done));
    case OptimizerOptions::Schedule::kLinear:
      return lr * (1 - done);
    case OptimizerOptions::Schedule::kConstant:
      break;
  }
  return lr;
}

Optimizer::Optimizer(ThreadPool& pool, std::vector<Parameter*> params, const OptimizerOptions& options, DType working,
                     bool masters, Ranks* ranks)
    : pool_(pool),
      params_(std::move(params)),
      options_(options),
      working_(working),
      masters_(masters),
      gradients_(pool, params_, ranks) {
  const int64_t own = gradients_.own_end() - gradients_.own_begin();
  m_ = options.eight_bit ? Packed(own) : OwnedTensor({own});
  v_ = options.eight_bit ? Packed(own) : OwnedTensor({own});
  if (options.eight_bit) {
    m_scale_ = OwnedTensor({Blocks(own)});
    v_scale_ = OwnedTensor({Blocks(own)});
  }
  for (const Parameter* param : params_) {
    OwnedTensor& master = master_.emplace_back();
    if (working == DType::kF32 || !masters || param->is_master) continue;
    master = OwnedTensor({param->value.size()});
    std::memcpy(master.view.data, param->value.data, static_cast<size_t>(param->value.bytes()));
  }
  const OwnedTensor rounded = RoomToRound();
  for (size_t i = 0; i < params_.size(); ++i) Round(i, rounded.view);
}

Optimizer::Part Optimizer::PartOf(size_t index) const {
  const int64_t first = gradients_.layout().begins[index], size = params_[index]->value.size();
  const int64_t begin = std::clamp<int64_t>(gradients_.own_begin() - first, 0, size);
  const int64_t end = std::clamp<int64_t>(gradients_.own_end() - first, 0, size);
  return {begin, first + begin - gradients_.own_begin(), end - begin};
}

Tensor Optimizer::MasterOf(size_t index) const {
  const Parameter& param = *params_[index];
  return master_[index].view ? master_[index].view : Tensor(param.value.f32(), {param.value.size()});
}

bool Optimizer::Rounds(size_t index) const {
  return working_ != DType::kF32 && !(masters_ && params_[index]->is_master);
}

OwnedTensor Optimizer::RoomToRound() const {
  int64_t most = 0;
  for (size_t i = 0; i < params_.size(); ++i) {
    if (Rounds(i)) most = std::max(most, params_[i]->value.size());
  }
  return OwnedTensor(working_, {most});
}

void Optimizer::Round(size_t index, Tensor stored) {
  if (!Rounds(index)) return;
  const Tensor value(params_[index]->value.f32(), {params_[index]->value.size()});
  stored = Tensor(stored.data, working_, {value.size()});
  Convert(pool_, MasterOf(index), stored);
  Convert(pool_, stored, value);
}

double Optimizer::GradNorm(float grad_scale) const {
  return std::sqrt(gradients_.SquaredNorm()) * static_cast<double>(grad_scale);
}

void Optimizer::Step(double lr, float grad_scale, double grad_norm) {
  ++steps_;
  // torch.nn.utils.clip_grad_norm_
  const double clip = static_cast<double>(options_.clip);
  const OwnedTensor rounded = RoomToRound();
  if (clip > 0) grad_scale *= static_cast<float>(std::min(1.0, clip / (grad_norm + 1e-6)));
  const auto own = [](Tensor stretch, int64_t at, int64_t size) { return Tensor(stretch.f32() + at, {size}); };
  for (size_t i = 0; i < params_.size(); ++i) {
    const AdamW hyper = {static_cast<float>(lr) * params_[i]->lr_scale, options_.beta1, options_.beta2, options_.eps,
                         params_[i]->decay ? options_.weight_decay : 0.0f};
    const Part part = PartOf(i);
    if (part.size == 0) continue;
    const Tensor master = own(MasterOf(i), part.begin, part.size);
    if (options_.eight_bit) {
      StepEightBit(hyper, grad_scale, master, part);
    } else {
      AdamWStep(pool_, hyper, steps_, grad_scale, own(gradients_.sum(), part.at, part.size), master,
                own(m_.view, part.at, part.size), own(v_.view, part.at, part.size));
    }
  }
  SpreadMasters();
  for (size_t i = 0; i < params_.size(); ++i) Round(i, rounded.view);
}

// Through the room of the gradients, which are used up.
void Optimizer::SpreadMasters() {
  if (gradients_.ranks() == nullptr) return;
  const std::span<float> room = gradients_.room();
  const auto each = [&](const auto& f) {
    for (size_t i = 0; i < params_.size(); ++i) f(MasterOf(i), room.data() + gradients_.layout().begins[i], PartOf(i));
  };
  each([](Tensor master, float* at, const Part& part) {
    std::copy_n(master.f32() + part.begin, part.size, at + part.begin);
  });
  gradients_.ranks()->FromOwners(room, gradients_.layout().borders);
  each([](Tensor master, float* at, const Part& part) {
    std::copy_n(at, part.begin, master.f32());
    std::copy(at + part.begin + part.size, at + master.size(), master.f32() + part.begin + part.size);
  });
}

void Optimizer::StepEightBit(const AdamW& hyper, float grad_scale, Tensor master, const Part& part) {
  constexpr int64_t kBlocksAtOnce = 256;
  const int64_t size = part.size;
  int8_t* const m_codes = m_.view.as<int8_t>() + part.at;
  uint8_t* const v_codes = v_.view.as<uint8_t>() + part.at;
  float* const m_scale = m_scale_.view.f32() + part.at / kMomentBlock;
  float* const v_scale = v_scale_.view.f32() + part.at / kMomentBlock;
  OwnedTensor m({kBlocksAtOnce * kMomentBlock}), v({kBlocksAtOnce * kMomentBlock});
  for (int64_t first = 0; first < Blocks(size); first += kBlocksAtOnce) {
    const int64_t blocks = std::min(kBlocksAtOnce, Blocks(size) - first), begin = first * kMomentBlock;
    const int64_t count = std::min(blocks * kMomentBlock, size - begin);
    const auto each_block = [&](const auto& f) {
      pool_.Run(blocks, [&](int64_t block, int) {
        const int64_t at = block * kMomentBlock;
        f(first + block, at, std::min(kMomentBlock, count - at));
      });
    };
    each_block([&](int64_t block, int64_t at, int64_t n) {
      DecodeMoments(m_codes + begin + at, v_codes + begin + at, m_scale[block], v_scale[block], n, m.view.f32() + at,
                    v.view.f32() + at);
    });
    AdamWStep(pool_, hyper, steps_, grad_scale, Tensor(gradients_.sum().f32() + part.at + begin, {count}),
              Tensor(master.f32() + begin, {count}), Tensor(m.view.f32(), {count}), Tensor(v.view.f32(), {count}));
    each_block([&](int64_t block, int64_t at, int64_t n) {
      EncodeMoments(m.view.f32() + at, v.view.f32() + at, n, m_codes + begin + at, v_codes + begin + at,
                    m_scale + block, v_scale + block);
    });
  }
}

int64_t Optimizer::parameters() const {
  int64_t total = 0;
  for (const Parameter* param : params_) total += param->value.size();
  return total;
}

int64_t Optimizer::bytes() const {
  int64_t total = gradients_.bytes();
  for (const OwnedTensor* tensor : {&m_, &v_, &m_scale_, &v_scale_})
    total += static_cast<int64_t>(tensor->buffer.bytes());
  for (const OwnedTensor& master : master_) total += static_cast<int64_t>(master.buffer.bytes());
  return total;
}

int64_t Optimizer::bytes_to_come(int64_t micro_batches) const {
  const int64_t beside = micro_batches > 1 ? gradients_.bytes_beside() : 0;
  return static_cast<int64_t>(m_.buffer.bytes() + v_.buffer.bytes()) + beside;
}

Optimizer::State Optimizer::MomentState(const std::string& name, size_t index, const OwnedTensor& storage, int64_t per,
                                        int64_t bytes) const {
  const Part part = PartOf(index);
  const int64_t size = params_[index]->value.size();
  const auto stored = [&](int64_t numbers) { return (numbers + per - 1) / per * bytes; };
  State state = {name, Tensor(nullptr, storage.view.dtype, {(stored(size) + 3) / 4}), {}, stored(part.begin)};
  uint8_t* const data = storage.view.as<uint8_t>() + part.at / per * bytes;
  // Packed bytes fill a word; what is behind the last one is zero, and owned with it.
  const bool last = part.size > 0 && part.begin + part.size == size;
  const int64_t end = last ? state.tensor.bytes() : stored(part.begin + part.size);
  if (part.size > 0) state.here = {data, static_cast<size_t>(end - state.at)};
  if (gradients_.ranks() == nullptr) state.tensor.data = data;
  return state;
}

std::vector<Optimizer::State> Optimizer::states() const {
  std::vector<State> states;
  for (size_t i = 0; i < params_.size(); ++i) {
    const std::string& name = params_[i]->name;
    const Tensor value = MasterOf(i);
    states.push_back({"value." + name, value, {value.as<uint8_t>(), static_cast<size_t>(value.bytes())}});
    const int64_t bytes = options_.eight_bit ? 1 : sizeof(float);
    states.push_back(MomentState("m." + name, i, m_, 1, bytes));
    states.push_back(MomentState("v." + name, i, v_, 1, bytes));
    if (options_.eight_bit) {
      states.push_back(MomentState("m_scale." + name, i, m_scale_, kMomentBlock, sizeof(float)));
      states.push_back(MomentState("v_scale." + name, i, v_scale_, kMomentBlock, sizeof(float)));
    }
  }
  return states;
}

void Optimizer::Restore(int64_t steps) {
  steps_ = steps;
  const OwnedTensor rounded = RoomToRound();
  for (size_t i = 0; i < params_.size(); ++i) Round(i, rounded.view);
}

Optimizer::UnroundedValues::UnroundedValues(Optimizer& optimizer)
    : optimizer_(optimizer), rounded_(optimizer.RoomToRound()) {
  for (size_t i = 0; i < optimizer.params_.size(); ++i) {
    const Tensor master = optimizer.master_[i].view;
    if (master) std::memcpy(optimizer.params_[i]->value.data, master.data, static_cast<size_t>(master.bytes()));
  }
}

Optimizer::UnroundedValues::~UnroundedValues() {
  for (size_t i = 0; i < optimizer_.params_.size(); ++i) optimizer_.Round(i, rounded_.view);
}

}  // namespace cambium
