#pragma once

#include "server/service.h"

// One function an endpoint: answers `call`, or throws ApiError or cambium::Error. Those that read a body run on the
// helper, the others on the I/O thread.
namespace cambium::server {

void Chat(Call& call);         // POST /v1/chat/completions
void Completions(Call& call);  // POST /v1/completions

void Embeddings(Call& call);   // POST /v1/embeddings
void Responses(Call& call);    // POST /v1/responses
void Messages(Call& call);     // POST /v1/messages
void CountTokens(Call& call);  // POST /v1/messages/count_tokens

void ListModels(Call& call);     // GET /v1/models
void RetrieveModel(Call& call);  // GET /v1/models/{id}

void Health(Call& call);       // GET /health
void Ready(Call& call);        // GET /ready
void Version(Call& call);      // GET /version
void Props(Call& call);        // GET /props
void ShowMetrics(Call& call);  // GET /metrics

void Tokenize(Call& call);       // POST /tokenize
void Detokenize(Call& call);     // POST /detokenize
void ApplyTemplate(Call& call);  // POST /apply-template

void ShowEngine(Call& call);  // GET /v1/engine

void ListRuns(Call& call);      // GET /v1/training/runs
void ShowRun(Call& call);       // GET /v1/training/runs/{name}
void PlanTraining(Call& call);  // POST /v1/training/plan
void StartRun(Call& call);      // POST /v1/training/runs
void StopRun(Call& call);       // DELETE /v1/training/runs/{name}

void LoadGraft(Call& call);    // POST /v1/load_lora_adapter
void UnloadGraft(Call& call);  // POST /v1/unload_lora_adapter

}  // namespace cambium::server
