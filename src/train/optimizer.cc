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
                     bool masters)
    : pool_(pool), params_(std::move(params)), options_(options), working_(working), masters_(masters) {
  for (Parameter* param : params_) {
    Slot slot;
    const int64_t size = param->value.size();
    slot.grad = OwnedTensor({size});
    if (options.eight_bit) {
      slot.m = Packed(size);
      slot.v = Packed(size);
      slot.m_scale = OwnedTensor({Blocks(size)});
      slot.v_scale = OwnedTensor({Blocks(size)});
    } else {
      slot.m = OwnedTensor({size});
      slot.v = OwnedTensor({size});
    }
    if (working != DType::kF32 && masters && !param->is_master) {
      slot.master = OwnedTensor({size});
      std::memcpy(slot.master.view.data, param->value.data, static_cast<size_t>(param->value.bytes()));
    }
    param->grad = param->value;
    param->grad.data = slot.grad.view.data;
    slots_.push_back(std::move(slot));
  }
  const OwnedTensor rounded = RoomToRound();
  for (size_t i = 0; i < slots_.size(); ++i) Round(i, rounded.view);
}

Tensor Optimizer::MasterOf(size_t index) const {
  const Parameter& param = *params_[index];
  return slots_[index].master.view ? slots_[index].master.view : Tensor(param.value.f32(), {param.value.size()});
}

bool Optimizer::Rounds(size_t index) const {
  return working_ != DType::kF32 && !(masters_ && params_[index]->is_master);
}

OwnedTensor Optimizer::RoomToRound() const {
  int64_t most = 0;
  for (size_t i = 0; i < slots_.size(); ++i) {
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
  double sum = 0;
  for (const Slot& slot : slots_) sum += SquaredNorm(pool_, slot.grad.view);
  return std::sqrt(sum) * static_cast<double>(grad_scale);
}

void Optimizer::Step(double lr, float grad_scale, double grad_norm) {
  ++steps_;
  // torch.nn.utils.clip_grad_norm_
  const double clip = static_cast<double>(options_.clip);
  const OwnedTensor rounded = RoomToRound();
  if (clip > 0) grad_scale *= static_cast<float>(std::min(1.0, clip / (grad_norm + 1e-6)));
  for (size_t i = 0; i < slots_.size(); ++i) {
    const AdamW hyper = {static_cast<float>(lr) * params_[i]->lr_scale, options_.beta1, options_.beta2, options_.eps,
                         params_[i]->decay ? options_.weight_decay : 0.0f};
    if (options_.eight_bit) {
      StepEightBit(hyper, grad_scale, i);
    } else {
      AdamWStep(pool_, hyper, steps_, grad_scale, slots_[i].grad.view, MasterOf(i), slots_[i].m.view, slots_[i].v.view);
    }
    Round(i, rounded.view);
  }
}

void Optimizer::StepEightBit(const AdamW& hyper, float grad_scale, size_t index) {
  constexpr int64_t kBlocksAtOnce = 256;
  Slot& slot = slots_[index];
  const Tensor master = MasterOf(index);
  const int64_t size = master.size();
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
      DecodeMoments(slot.m.view.as<int8_t>() + begin + at, slot.v.view.as<uint8_t>() + begin + at,
                    slot.m_scale.view.f32()[block], slot.v_scale.view.f32()[block], n, m.view.f32() + at,
                    v.view.f32() + at);
    });
    AdamWStep(pool_, hyper, steps_, grad_scale, Tensor(slot.grad.view.f32() + begin, {count}),
              Tensor(master.f32() + begin, {count}), Tensor(m.view.f32(), {count}), Tensor(v.view.f32(), {count}));
    each_block([&](int64_t block, int64_t at, int64_t n) {
      EncodeMoments(m.view.f32() + at, v.view.f32() + at, n, slot.m.view.as<int8_t>() + begin + at,
                    slot.v.view.as<uint8_t>() + begin + at, slot.m_scale.view.f32() + block,
                    slot.v_scale.view.f32() + block);
    });
  }
}

void Optimizer::ZeroGrad() {
  for (Slot& slot : slots_) std::memset(slot.grad.view.data, 0, static_cast<size_t>(slot.grad.view.bytes()));
}

int64_t Optimizer::parameters() const {
  int64_t total = 0;
  for (const Parameter* param : params_) total += param->value.size();
  return total;
}

int64_t Optimizer::bytes() const {
  int64_t total = 0;
  for (const Slot& slot : slots_) {
    for (const OwnedTensor* tensor : {&slot.grad, &slot.master, &slot.m, &slot.v, &slot.m_scale, &slot.v_scale}) {
      total += static_cast<int64_t>(tensor->buffer.bytes());
    }
  }
  return total;
}

std::vector<Optimizer::State> Optimizer::states() const {
  std::vector<State> states;
  for (size_t i = 0; i < slots_.size(); ++i) {
    const std::string& name = params_[i]->name;
    states.push_back({"value." + name, MasterOf(i)});
    states.push_back({"m." + name, slots_[i].m.view});
    states.push_back({"v." + name, slots_[i].v.view});
    if (options_.eight_bit) {
      states.push_back({"m_scale." + name, slots_[i].m_scale.view});
      states.push_back({"v_scale." + name, slots_[i].v_scale.view});
    }
  }
  return states;
}

void Optimizer::Restore(int64_t steps) {
  steps_ = steps;
  const OwnedTensor rounded = RoomToRound();
  for (size_t i = 0; i < slots_.size(); ++i) Round(i, rounded.view);
}

Optimizer::UnroundedValues::UnroundedValues(Optimizer& optimizer)
    : optimizer_(optimizer), rounded_(optimizer.RoomToRound()) {
  for (size_t i = 0; i < optimizer.slots_.size(); ++i) {
    const Tensor master = optimizer.slots_[i].master.view;
    if (master) std::memcpy(optimizer.params_[i]->value.data, master.data, static_cast<size_t>(master.bytes()));
  }
}

Optimizer::UnroundedValues::~UnroundedValues() {
  for (size_t i = 0; i < optimizer_.slots_.size(); ++i) optimizer_.Round(i, rounded_.view);
}

}  // namespace cambium
