#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include "arrays.h"
#include "cambium/warning.h"
#include "handles.h"

namespace cambium::python {
namespace {

using Free = nb::call_guard<nb::gil_scoped_release>;

nb::dict InfoOf(const NativeModel& model) {
  const ModelInfo& info = model->info();
  nb::dict d;
  d["path"] = info.path;
  d["family"] = info.family;
  d["layers"] = info.layers;
  d["hidden"] = info.hidden;
  d["vocab"] = info.vocab;
  d["context"] = info.context;
  d["weight_bytes"] = info.weight_bytes;
  d["threads"] = info.threads;
  d["load_ms"] = info.load_ms;
  return d;
}

// Vocabulary ids only: a piece of another is asked for by mistake.
int32_t Checked(const Model& model, int32_t id) {
  if (id < 0 || id >= model.info().vocab) {
    Fail(ErrorCode::kUsage, "token id ", id, " is outside the vocabulary of ", model.info().vocab);
  }
  return id;
}

}  // namespace

void BindModel(nb::module_& m) {
  nb::class_<NativeModel>(m, "Model")
      .def_static(
          "load",
          [](const std::string& name, int threads) {
            return NativeModel(std::make_unique<Model>(Model::Load(name, threads)));
          },
          nb::arg("name"), nb::arg("threads") = 0, Free())
      .def_prop_ro("info", &InfoOf)
      .def_prop_ro("closed", &NativeModel::closed)
      .def("describe", [](const NativeModel& model) { return model->info().Describe(); })
      .def("close", &NativeModel::Close)
      .def(
          "encode",
          [](const NativeModel& model, std::string_view text, bool special, bool add_bos) {
            return model->Tokenize(text, special, add_bos);
          },
          nb::arg("text"), nb::arg("special") = false, nb::arg("add_bos") = true)
      .def(
          "decode",
          [](const NativeModel& model, const Ids& ids) {
            for (const int32_t id : SpanOf(ids)) Checked(model.get(), id);
            return model->Detokenize(SpanOf(ids));
          },
          nb::arg("ids").noconvert())
      .def(
          "decode",
          [](const NativeModel& model, const std::vector<int32_t>& ids) {
            for (const int32_t id : ids) Checked(model.get(), id);
            return model->Detokenize(ids);
          },
          nb::arg("ids"))
      .def("piece",
           [](const NativeModel& model, int32_t id) {
             const std::string piece = model->Piece(Checked(model.get(), id));
             return nb::bytes(piece.data(), piece.size());
           })
      .def("is_end", [](const NativeModel& model, int32_t id) { return model->IsEnd(Checked(model.get(), id)); })
      .def(
          "encode_chat",
          [](const NativeModel& model, std::string_view messages, bool add_generation_prompt, const std::string& tools,
             const std::string& variables) {
            return model->TokenizeChat(messages, {add_generation_prompt, tools, variables});
          },
          nb::arg("messages"), nb::arg("add_generation_prompt") = true, nb::arg("tools") = "",
          nb::arg("variables") = "", Free());

  nb::class_<Adapter>(m, "Adapter")
      .def_static(
          "load", [](const NativeModel& model, const std::string& path) { return Adapter::Load(model.get(), path); },
          nb::arg("model"), nb::arg("path"), Free())
      .def_prop_ro("path", &Adapter::path)
      .def_prop_ro("kinds", &Adapter::kinds)
      .def_prop_ro("slots", &Adapter::slots);

  nb::class_<Constraint>(m, "Constraint")
      .def_static(
          "json_schema",
          [](const NativeModel& model, const std::string& schema) {
            return Constraint::JsonSchema(model.get(), schema);
          },
          Free())
      .def_static(
          "regex",
          [](const NativeModel& model, const std::string& text) { return Constraint::Regex(model.get(), text); },
          Free())
      .def_static(
          "choice",
          [](const NativeModel& model, const std::vector<std::string>& texts) {
            return Constraint::Choice(model.get(), texts);
          },
          Free())
      .def_static(
          "grammar",
          [](const NativeModel& model, const std::string& gbnf) { return Constraint::Grammar(model.get(), gbnf); },
          Free())
      .def("accepts", [](const Constraint& constraint, std::string_view text) { return constraint.Accepts(text); });

  m.def("set_warning_handler", [](nb::object handler) {
    // Never freed: the library may still hold it when the interpreter has ended.
    static nb::object* kept = nullptr;
    if (kept == nullptr) kept = new nb::object();
    *kept = std::move(handler);
    if (kept->is_none()) return SetWarningHandler(nullptr);
    SetWarningHandler([](const std::string& text) {
      if (!Py_IsInitialized()) return;
      const nb::gil_scoped_acquire gil;
      (*kept)(text);
    });
  });
}

}  // namespace cambium::python
