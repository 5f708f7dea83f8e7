#include "io/unicode.h"
#include "server/ask.h"
#include "server/chat_prompt.h"
#include "server/constraint.h"
#include "server/endpoints.h"
#include "server/prompts.h"

namespace cambium::server {
namespace {

// The model that a body names must be here, though the grafts' tokens are the base's.
void CheckModel(const Fields& fields, const Service& service) {
  std::string name;
  ReadModel(fields, service, name);
}

std::vector<int32_t> IdsToTokenize(const Fields& fields, const Model& model) {
  if (fields.Has("messages")) {
    return IdsOf(ReadChat(fields, ReadTools(fields), model), model);
  }
  auto text = fields.Text("content");
  if (!text) text = fields.Text("prompt");
  if (!text) Refuse("content", "content, prompt or messages is missing");
  const auto add = fields.Bool("add_special"), add_too = fields.Bool("add_special_tokens");
  const bool bos = add.value_or(add_too.value_or(fields.Has("prompt") && !fields.Has("content")));
  return model.Tokenize(*text, fields.Bool("parse_special").value_or(false), bos);
}

// A piece that is no text is shown by its bytes, as llama.cpp does.
Json PieceJson(const std::string& piece) {
  if (IsValidUtf8(piece)) return piece;
  Json bytes = Json::array();
  for (const char byte : piece) bytes.push_back(static_cast<unsigned char>(byte));
  return bytes;
}

}  // namespace

void Tokenize(Call& call) {
  const Model& model = call.service.model();
  const Json body = ParseBody(call.request.body);
  const Fields fields(body);
  CheckModel(fields, call.service);
  const std::vector<int32_t> ids = IdsToTokenize(fields, model);
  Json answer = {{"tokens", ids}, {"count", ids.size()}, {"max_model_len", call.service.context}};
  if (fields.Bool("with_pieces").value_or(false)) {
    answer["tokens"] = Json::array();
    for (const int32_t id : ids) answer["tokens"].push_back({{"id", id}, {"piece", PieceJson(model.Piece(id))}});
  }
  if (fields.Bool("return_token_strs").value_or(false)) {
    for (const int32_t id : ids) answer["token_strs"].push_back(model.Piece(id));
  }
  call.reply->Send({200, Dump(answer)});
}

void Detokenize(Call& call) {
  const Json body = ParseBody(call.request.body);
  const Fields fields(body);
  CheckModel(fields, call.service);
  const Json* const tokens = fields.Find("tokens");
  if (tokens == nullptr) Refuse("tokens", "tokens is missing");
  const bool none = tokens->is_array() && tokens->empty();
  const std::string text =
      none ? "" : call.service.model().Detokenize(ReadIds(*tokens, "tokens", call.service.model()));
  call.reply->Send({200, Dump({{"content", text}, {"prompt", text}})});
}

void ApplyTemplate(Call& call) {
  const Json body = ParseBody(call.request.body);
  const Fields fields(body);
  CheckModel(fields, call.service);
  const Model& model = call.service.model();
  const ChatPrompt chat = ReadChat(fields, ReadTools(fields), model);
  call.reply->Send({200, Dump({{"prompt", TextOf(chat, model)}})});
}

}  // namespace cambium::server
