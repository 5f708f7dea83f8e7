#pragma once

// The whole library: load a model and adapters, serve requests, train. `cambium/sliding_max.h` and
// `cambium/min_cover.h` stand on their own.
#include "cambium/engine.h"
#include "cambium/error.h"
#include "cambium/model.h"
#include "cambium/train.h"
