#include <fmt/format.h>

#include <bit>
#include <cstring>

#include "server/endpoints.h"
#include "server/exchange.h"
#include "server/prompts.h"

namespace cambium::server {
namespace {

constexpr size_t kMostInputs = 2048;

std::string Base64(std::string_view bytes) {
  static constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t three = 0;
    for (size_t k = 0; k < 3; ++k) three = three << 8 | (i + k < bytes.size() ? static_cast<uint8_t>(bytes[i + k]) : 0);
    for (size_t k = 0; k < 4; ++k) text += i + k > bytes.size() ? '=' : kDigits[three >> (18 - 6 * k) & 63];
  }
  return text;
}

class EmbeddingFormat : public AnswerFormat {
 public:
  EmbeddingFormat(std::shared_ptr<const Ask> ask, bool base64) : AnswerFormat(std::move(ask)), base64_(base64) {}

  std::string Whole(const std::vector<Generation>& generations) override {
    Json data = Json::array();
    int64_t tokens = 0;
    for (size_t i = 0; i < generations.size(); ++i) {
      const std::vector<float>& vector = generations[i].embedding;
      static_assert(std::endian::native == std::endian::little);
      const std::string_view bytes(reinterpret_cast<const char*>(vector.data()), vector.size() * sizeof(float));
      data.push_back(
          {{"object", "embedding"}, {"index", i}, {"embedding", base64_ ? Json(Base64(bytes)) : Json(vector)}});
      tokens += std::ssize(ask_->prompts[i]);
    }
    return Dump({{"object", "list"},
                 {"data", std::move(data)},
                 {"model", ask_->model},
                 {"usage", {{"prompt_tokens", tokens}, {"total_tokens", tokens}}}});
  }
  std::string OnEvent(size_t, const Event&) override { return ""; }
  std::string Closing(const std::vector<Generation>&) override { return ""; }

 private:
  bool base64_;
};

}  // namespace

void Embeddings(Call& call) {
  const Json body = ParseBody(call.request.body);
  const Fields fields(body);
  const Service& service = call.service;
  const auto ask = std::make_shared<Ask>();
  Request pattern;
  pattern.adapters = ReadModel(fields, service, ask->model);
  pattern.embed = true;
  pattern.max_tokens = 0;
  const std::string format = fields.Text("encoding_format").value_or("float");
  if (format != "float" && format != "base64")
    Refuse("encoding_format", *fields.Find("encoding_format"), "float or base64");
  const int64_t hidden = service.model().info().hidden;
  if (fields.Whole("dimensions", 1).value_or(hidden) != hidden) {
    Refuse("dimensions", *fields.Find("dimensions"), fmt::format("{}, which the model's embeddings have", hidden));
  }
  ask->arrived = std::chrono::steady_clock::now();
  ask->prompt_field = "input";
  ask->prompts = ReadPrompts(fields, "input", service.model(), true);
  TruncatePrompts(fields, pattern, service, *ask);
  if (ask->prompts.size() > kMostInputs) {
    Refuse("input", fmt::format("input has {} entries, at most {} may be given", ask->prompts.size(), kMostInputs));
  }
  const auto exchange = std::make_shared<Exchange>(call.service, call.reply, ask,
                                                   std::make_unique<EmbeddingFormat>(ask, format == "base64"));
  exchange->Start(RequestsOf(*ask, pattern, service));
}

}  // namespace cambium::server
