// Files: medusa_lm_head.safetensors and config.json as github.com/FasterDecoding/Medusa writes them: "{k}.{j}.linear.weight"
// and ".bias" of block j of head k, and in version 1 "{k}.{blocks}.weight", the head's own output matrix.
#include "grafts/medusa.h"

#include <filesystem>

#include "cambium/error.h"
#include "io/atomic_file.h"
#include "io/json.h"

namespace cambium {
namespace {

constexpr int64_t kMostHeads = 16, kMostBlocks = 16;
constexpr const char* kWeights = "/medusa_lm_head.safetensors";

std::string BlockName(int64_t head, int64_t block) {
  return std::to_string(head) + "." + std::to_string(block) + ".linear";
}
std::string OwnName(int64_t head, int64_t blocks) { return std::to_string(head) + "." + std::to_string(blocks) + ".weight"; }

}  // namespace

MedusaHeads::MedusaHeads(const BaseModel& model, HeadsFile file, int64_t heads, int64_t blocks, bool own)
    : model_(model), file_(std::move(file)), readout_(model, file_.draft_tokens, file_.end_tokens, "medusa") {
  const int64_t width = model.config().hidden;
  for (int64_t k = 0; k < heads; ++k) {
    Head& head = heads_.emplace_back();
    for (int64_t j = 0; j < blocks; ++j) head.blocks.emplace_back(BlockName(k, j), width);
    if (!own) continue;
    head.own = std::make_unique<TrainedMatrix>(OwnName(k, blocks), readout_.size(), width);
    readout_.matrix().Unpack(model.pool(), head.own->param.value);  // starts as a copy of the base's
  }
}

std::unique_ptr<Graft> MedusaHeads::Make(const GraftOptions& options, BaseModel& model) {
  if (options.heads < 1 || options.heads > kMostHeads) {
    Fail(ErrorCode::kUsage, "heads is ", options.heads, ", expected 1 to ", kMostHeads);
  }
  HeadsFile file{.kind = "medusa", .base = options.base, .hidden = model.config().hidden, .vocab = model.config().vocab,
                 .draft_tokens = options.draft_tokens, .end_tokens = options.end_tokens};
  auto heads = std::unique_ptr<MedusaHeads>(new MedusaHeads(model, std::move(file), options.heads, 1, options.own_heads));
  heads->Pack(false);
  return heads;
}

bool MedusaHeads::Recognises(const std::string& path) {
  for (const char* name : {kWeights, "/medusa_lm_head.pt"}) {
    if (std::filesystem::exists(path + name)) return true;
  }
  return false;
}

std::unique_ptr<Graft> MedusaHeads::Load(const std::string& path, const BaseModel& model, float scale) {
  if (scale != 1) Fail(ErrorCode::kUsage, path, ": draft heads have no scale, ", scale, " was asked for");
  if (!std::filesystem::exists(path + kWeights)) {
    Fail(ErrorCode::kData, path, "/medusa_lm_head.pt: a pickle runs code when it is read, so it is refused; convert it to ",
         kWeights + 1);
  }
  HeadsFile described = ReadHeadsFile(path, model);
  const SafetensorsFile file(path + kWeights);
  int64_t heads = 0, blocks = 0;
  while (file.FindTensor(BlockName(heads, 0) + ".weight") != nullptr) ++heads;
  while (file.FindTensor(BlockName(0, blocks) + ".weight") != nullptr) ++blocks;
  if (heads < 1 || heads > kMostHeads || blocks > kMostBlocks) {
    Fail(ErrorCode::kData, file.path(), ": ", heads, " heads of ", blocks, " blocks, expected 1 to ", kMostHeads, " of 1 to ",
         kMostBlocks);
  }
  const bool own = file.FindTensor(OwnName(0, blocks)) != nullptr;
  if (const std::string config = path + "/config.json"; std::filesystem::exists(config)) {
    const nlohmann::json json = ParseJson(ReadTextFile(config), config);
    for (const auto& [field, found] : {std::pair{"medusa_num_heads", heads}, std::pair{"medusa_num_layers", blocks}}) {
      if (json.is_object() && json.contains(field) && json[field] != found) {
        Fail(ErrorCode::kData, config, ": field ", field, " is ", json[field].dump(), ", ", file.path(), " has ", found);
      }
    }
  }
  const size_t expected = static_cast<size_t>(heads * (2 * blocks + (own ? 1 : 0)));
  if (file.tensors().size() != expected) {
    Fail(ErrorCode::kData, file.path(), ": holds ", file.tensors().size(), " tensors, ", heads, " heads of ", blocks,
         " blocks have ", expected);
  }
  described.kind = "medusa";
  described.hidden = model.config().hidden;
  described.vocab = model.config().vocab;
  auto graft = std::unique_ptr<MedusaHeads>(new MedusaHeads(model, std::move(described), heads, blocks, own));
  for (int64_t k = 0; k < heads; ++k) {
    Head& head = graft->heads_[static_cast<size_t>(k)];
    for (int64_t j = 0; j < blocks; ++j) {
      ResBlock& block = head.blocks[static_cast<size_t>(j)];
      ReadHeadTensor(file, BlockName(k, j) + ".weight", block.weight.param.value);
      ReadHeadTensor(file, BlockName(k, j) + ".bias", block.bias.param.value);
    }
    if (own) ReadHeadTensor(file, OwnName(k, blocks), head.own->param.value);
  }
  file.CheckIntact();
  graft->Pack(false);
  return graft;
}

void MedusaHeads::Save(const std::string& path) {
  SaveHeads(*this, path, kWeights, file_);
  const nlohmann::ordered_json config = {{"base_model_name_or_path", file_.base},
                                         {"medusa_num_heads", depths()},
                                         {"medusa_num_layers", heads_.front().blocks.size()},
                                         {"version", heads_.front().own ? "1" : "2"}};
  AtomicFile out(path + "/config.json");
  out.Write(config.dump(2) + "\n");
  out.Commit();
}

void MedusaHeads::Forward(const GraftContext& c, int64_t depth, const HeadStep& step, Tensor features, Tensor) {
  const std::vector<ResBlock>& blocks = heads_[static_cast<size_t>(depth)].blocks;
  const Workspace::Mark mark = c.workspace.GetMark();
  Tensor x = step.input;
  for (const ResBlock& block : blocks) {
    const bool last = &block == &blocks.back();
    Tensor y = last ? features : c.workspace.New({x.rows(), x.columns()});
    block.Forward(c, x, y);
    x = y;
  }
  c.workspace.Release(mark);
}

void MedusaHeads::Backward(const GraftContext& c, int64_t depth, const HeadStep& step, Tensor dfeatures, Tensor,
                           Tensor dinput) {
  std::vector<ResBlock>& blocks = heads_[static_cast<size_t>(depth)].blocks;
  const Workspace::Mark mark = c.workspace.GetMark();
  std::vector<Tensor> inputs = {step.input};
  for (size_t j = 0; j + 1 < blocks.size(); ++j) {
    Tensor y = c.workspace.New({step.input.rows(), step.input.columns()});
    blocks[j].Forward(c, inputs.back(), y);
    inputs.push_back(y);
  }
  for (size_t j = blocks.size(); j-- > 0;) blocks[j].Backward(c, inputs[j], dfeatures);
  if (dinput) Convert(c.pool, dfeatures, dinput);
  c.workspace.Release(mark);
}

const PackedMatrix& MedusaHeads::readout(int64_t depth) const {
  const Head& head = heads_[static_cast<size_t>(depth)];
  return head.own ? head.own_packed : readout_.matrix();
}

Tensor MedusaHeads::readout_gradient(int64_t depth) {
  const Head& head = heads_[static_cast<size_t>(depth)];
  return head.own ? head.own->param.grad : Tensor();
}

void MedusaHeads::VisitParams(const std::function<void(Parameter&)>& visit) {
  for (Head& head : heads_) {
    for (ResBlock& block : head.blocks) {
      visit(block.weight.param);
      visit(block.bias.param);
    }
    if (head.own) visit(head.own->param);
  }
}

void MedusaHeads::Pack(bool frozen) {
  for (Head& head : heads_) {
    for (ResBlock& block : head.blocks) block.Pack(model_.pool(), frozen);
    if (head.own) head.own->Pack(model_.pool(), head.own_packed, frozen);
  }
}

}  // namespace cambium
