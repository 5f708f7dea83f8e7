#include <filesystem>

#include "engine/training_impl.h"
#include "io/atomic_file.h"
#include "train/plan.h"

namespace cambium {

Training::Training(const Model& model, const TrainConfig& config, const Lines& lines)
    : impl_(std::make_unique<Impl>(model, config, lines)) {}
Training::Training(Training&&) noexcept = default;
Training& Training::operator=(Training&&) noexcept = default;
Training::~Training() = default;

const TrainConfig& Training::config() const { return impl_->config; }
const std::string& Training::kind() const { return impl_->kind; }
const DatasetReport& Training::data() const { return impl_->data.report; }
int64_t Training::valid_examples() const { return std::ssize(impl_->valid.examples); }
int64_t Training::step() const { return impl_->trainer->step(); }
int64_t Training::total_steps() const { return impl_->trainer->total_steps(); }
const TrainResult& Training::result() const { return impl_->result; }

std::string Training::Preview(bool color) const {
  return MaskPreview(impl_->data.examples.front(), impl_->m.tokenizer, color);
}

std::vector<PreviewPart> Training::PreviewParts() const {
  return cambium::PreviewParts(impl_->data.examples.front(), impl_->m.tokenizer);
}

TrainPlan Training::Plan(int ranks) {
  Impl& t = *impl_;
  const std::lock_guard computing(t.m.compute);
  return MakePlan(*t.trainer, t.transformer, t.data.examples, t.setup.train.batch,
                  t.ranks != nullptr ? t.ranks->size() : ranks);
}

void Training::RequireStopToken() const {
  if (impl_->config.yes || impl_->data.report.stop_token_trained()) return;
  Fail(ErrorCode::kUsage,
       "the stop token is not trained, so answers would never end; end the texts with it, or give --yes");
}

std::optional<StepReport> Training::Step() {
  Impl& t = *impl_;
  RequireStopToken();
  if (t.frozen) return std::nullopt;
  const std::lock_guard computing(t.m.compute);
  if (t.config.numerics_report && !t.numerics) t.numerics.emplace(*t.trainer, t.transformer);  // not of a plan's passes
  std::optional<StepReport> report = t.trainer->Next({.stop = &t.stop});
  if (report && t.numerics) t.numerics->Step();
  if (!report) t.result = t.trainer->result();
  if (!report) t.stop = false;
  return report;
}

void Training::Stop() noexcept {
  static_assert(std::atomic<bool>::is_always_lock_free);
  impl_->stop = true;
}

double Training::Evaluate() {
  Impl& t = *impl_;
  if (t.valid.examples.empty())
    Fail(ErrorCode::kUsage, "there is no validation data: neither --valid nor --valid-split");
  const std::lock_guard computing(t.m.compute);
  return t.trainer->ValidationLoss();
}

void Training::Save(const std::string& directory) {
  Impl& t = *impl_;
  const std::string to = !directory.empty() ? directory : t.bundle();
  if (to.empty()) Fail(ErrorCode::kUsage, "no directory to save into: neither one given nor --output");
  if (t.frozen)
    Fail(ErrorCode::kUsage, to, ": save before the heads are reported on; they are packed for serving then");
  const std::lock_guard computing(t.m.compute);
  if (!IsFirst(t.ranks)) return;  // all have the same
  const Optimizer::UnroundedValues values(t.trainer->optimizer());
  t.graft->Save(to);
  if (t.with_heads != nullptr) t.with_heads->Save(to);
  if (!t.config.bundle.empty()) return;  // the fine-tune is there
  for (const auto& part : t.trunk) part->Save(to);
}

Adapter Training::adapter() const {
  Impl& t = *impl_;
  if (t.kind == "full") {
    Fail(ErrorCode::kUsage, "full fine-tuning makes no adapter: the model itself is what was trained");
  }
  const auto folder = std::make_shared<ScratchDirectory>(std::filesystem::temp_directory_path() / "cambium-adapter");
  const std::string path = folder->Path(t.kind);
  Training& self = const_cast<Training&>(*this);
  self.Save(path);
  return AdapterIn(t.model, path, folder);
}

std::vector<std::string> Training::WriteNumerics() {
  Impl& t = *impl_;
  if (!t.config.numerics_report)
    Fail(ErrorCode::kUsage, "there are no numerics to report: --numerics-report was not given");
  if (!t.numerics) return {};  // no step ran
  if (t.config.output.empty()) Fail(ErrorCode::kUsage, "no directory for the numerics: --output was not given");
  return t.numerics->Write(t.config.output);
}

std::vector<std::string> Training::ReportHeads() {
  Impl& t = *impl_;
  if (t.trainer->heads_loss() == nullptr) return {};
  if (t.config.output.empty()) Fail(ErrorCode::kUsage, "no directory for the heads' report: --output was not given");
  const std::lock_guard computing(t.m.compute);
  t.frozen = true;
  return cambium::ReportHeads(t);
}

}  // namespace cambium
