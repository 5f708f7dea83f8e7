#pragma once

#include <CLI/CLI.hpp>

namespace cambium::cli {

// Each adds its verb, with options and callback, to the application. One file a verb.
void AddBench(CLI::App& app);
void AddCompletion(CLI::App& app);
void AddCorpus(CLI::App& app);
void AddConvert(CLI::App& app);
void AddEval(CLI::App& app);
void AddGenerate(CLI::App& app);
void AddInspect(CLI::App& app);
void AddList(CLI::App& app);
void AddMan(CLI::App& app);
void AddExtract(CLI::App& app);
void AddMerge(CLI::App& app);
void AddPlan(CLI::App& app);
void AddPrefix(CLI::App& app);
void AddPull(CLI::App& app);
void AddQuantize(CLI::App& app);
void AddRm(CLI::App& app);
void AddRun(CLI::App& app);
void AddScore(CLI::App& app);
void AddSearch(CLI::App& app);
void AddServe(CLI::App& app);
void AddTokenize(CLI::App& app);
void AddTrain(CLI::App& app);
void AddVersion(CLI::App& app);
void AddWindow(CLI::App& app);

// In the order in which help lists them.
inline constexpr void (*kVerbs[])(CLI::App&) = {
    // clang-format off
    AddGenerate,
    AddRun,
    AddServe,
    AddTrain,
    AddPlan,
    AddMerge,
    AddExtract,
    AddPrefix,
    AddTokenize,
    AddScore,
    AddEval,
    AddInspect,
    AddConvert,
    AddQuantize,
    AddPull,
    AddList,
    AddRm,
    AddBench,
    AddCorpus,
    AddSearch,
    AddWindow,
    AddVersion,
    AddMan,
    AddCompletion,
    // clang-format on
};

}  // namespace cambium::cli
