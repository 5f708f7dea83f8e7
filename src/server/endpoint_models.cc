#include "server/endpoints.h"
#include "server/fields.h"

namespace cambium::server {
namespace {

Json BaseJson(const Service& service) {
  return {{"id", service.options.name},      {"object", "model"},         {"created", service.options.started},
          {"owned_by", "cambium"},           {"root", service.info.path}, {"parent", nullptr},
          {"max_model_len", service.context}};
}

Json GraftJson(const Service& service, const ServedGraft& graft) {
  return {{"id", graft.name},         {"object", "model"},
          {"created", graft.created}, {"owned_by", "cambium"},
          {"root", graft.path},       {"parent", service.options.name},
          {"kinds", graft.kinds},     {"max_model_len", service.context}};
}

}  // namespace

void ListModels(Call& call) {
  Json data = Json::array({BaseJson(call.service)});
  for (const auto& graft : call.service.grafts.List()) data.push_back(GraftJson(call.service, *graft));
  call.reply->Send({200, Dump({{"object", "list"}, {"data", std::move(data)}})});
}

void RetrieveModel(Call& call) {
  const std::string& path = call.request.path;
  const std::string id = path.substr(std::string_view("/v1/models/").size());
  if (id == call.service.options.name) {
    call.reply->Send({200, Dump(BaseJson(call.service))});
    return;
  }
  const GraftShelf::Entry graft = call.service.grafts.Find(id);
  if (graft == nullptr) {
    throw ApiError{404, "the model `" + id.substr(0, 80) + "` does not exist here", "model", "model_not_found"};
  }
  call.reply->Send({200, Dump(GraftJson(call.service, *graft))});
}

}  // namespace cambium::server
