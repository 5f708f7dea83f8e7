#pragma once

#include <initializer_list>
#include <string>
#include <vector>

#include "cambium/train.h"
#include "grafts/grafts.h"

// The options of training: one line each, of which the command line, TOML and JSON are made.
namespace cambium {

using Choices = std::vector<std::string>;  // what a text may be

// visit(flags, member, help[, choices]) for each option; flags as "-o,--output". First those of the data.
template <class Config, class Visit>
void VisitDataFields(Config& c, Visit&& visit) {
  visit("--data", c.data, "The examples: JSON lines, a JSON array, or a text (docs/training.md)");
  visit("--valid", c.valid, "Examples to validate on");
  visit("--valid-split", c.valid_split, "Or the share of --data to validate on, 0 to 1");
  visit("--format", c.format, "auto, chat, completions, text, alpaca, sharegpt, ids or plain");
  visit("-o,--output", c.output, "Directory for the adapter or model, checkpoints and metrics");
}

template <class Config, class Visit>
void VisitTrainFields(Config& c, Visit&& visit) {
  visit("--graft", c.graft, "What is trained: " + GraftKinds());
  visit("--rank", c.rank, "Rank of a LoRA");
  visit("--alpha", c.alpha, "LoRA's scale is alpha / rank");
  visit("--rslora", c.rslora, "Scale by alpha / sqrt(rank)");
  visit("--dora", c.dora, "Train the length of the adapted matrix's rows too (DoRA)");
  visit("--pissa", c.pissa, "Begin from the matrices' leading singular vectors (PiSSA)");
  visit("--rank-pattern", c.rank_pattern, "Other ranks by linear: q_proj=16,down_proj=4");
  visit("--alpha-pattern", c.alpha_pattern, "Other alphas by linear");
  visit("--dropout", c.dropout, "LoRA's dropout");
  visit("--targets", c.targets, "Linears to adapt, such as q_proj,v_proj (default: all)");
  visit("--length", c.length, "Virtual tokens of a prefix or prompt");
  visit("--prefix-init", c.prefix_init, "How a prefix or prompt begins: text, random or zero");
  visit("--init-text", c.init_text, "The text it begins as (default: the beginning of the data)");
  visit("--prefix-mlp", c.prefix_mlp, "Train a prefix through an MLP of this width (0: directly)");
  visit("--variant", c.variant, "Of an adapter: houlsby, pfeiffer, parallel or scaled-parallel");
  visit("--reduction", c.reduction, "An adapter's bottleneck has hidden / reduction values");
  visit("--activation", c.activation, "An adapter's: relu, swish, gelu, gelu_new or tanh");
  visit("--adapter-init", c.adapter_init, "zero-up (no effect at first), bert or houlsby");
  visit("--heads", c.heads, "Draft heads: how many tokens ahead they guess");
  visit("--own-heads", c.own_heads, "Medusa version 1: an output head of its own for each");
  visit("--parallel", c.parallel, "mtp: a block for each depth, as Meta's, not one used again");
  visit("--layer", c.layer, "exit: how many blocks run before it (0: half of them)");
  visit("--draft-vocab", c.draft_vocab, "Draft heads choose from the most frequent tokens of --data (0: all)");
  visit("--labels", c.labels, "Draft heads learn what the model says, or the text's own tokens",
        Choices{"model", "text"});
  visit("--feature-weight", c.feature_weight,
        "With labels of the model: how much its hidden states count beside its tokens (default: mtp 10, others 0)");
  visit("--distill", c.distill,
        "Draft heads: prompts, as --data has them, that the model answers; heads learn its answers");
  visit("--distill-tokens", c.distill_tokens, "Most tokens of such an answer");
  visit("--distill-temp", c.distill_temp, "Temperature of such answers (0: greedy)");
  visit("--heads-lr", c.heads_lr, "Learning rate of draft heads");
  visit("--cache-gb", c.cache_gb, "Draft heads: most disk for the model's hidden states (0: none)");
  visit("--with-graft", c.with_graft, "Draft heads: the fine-tune that they are for");
  visit("--with-heads", c.with_heads, "After the adapter, train draft heads for it: medusa, mtp or exit");
  visit("--mtp-weight", c.mtp_weight, "Train MTP beside a lora or the full model: its weight in the loss (0: not)");
  visit("--joint", c.joint, "--with-heads first alone, then with the lora, which stays near the model (Medusa-2)");
  visit("--joint-weight", c.joint_weight, "Weight of the heads' loss then");
  visit("--refresh-heads", c.refresh_heads, "Train the heads of this bundle again, for its fine-tune");
  visit("--init-from", c.init_from, "Start from this adapter");
  visit("--batch-size", c.batch_size, "Examples in a micro-batch");
  visit("--seq-len", c.seq_len, "Tokens of an example; longer ones are cut");
  visit("--pack", c.pack, "Fill micro-batches to batch-size x seq-len tokens; examples do not see each other");
  visit("--accumulate", c.accumulate, "Micro-batches a step");
  visit("--steps", c.steps, "Steps (0: what --epochs take)");
  visit("--epochs", c.epochs, "Times through the data (default: 3, or what 100 steps take)");
  visit("--lr", c.lr, "Learning rate (default: by --graft and the model's width)");
  visit("--schedule", c.schedule, "cosine, linear or constant");
  visit("--warmup", c.warmup, "Steps of warm-up");
  visit("--weight-decay", c.weight_decay, "Decoupled weight decay");
  visit("--clip", c.clip, "Largest global gradient norm (0: no clipping)");
  visit("--adam-8bit", c.adam_8bit, "Keep AdamW's moments in 8 bits");
  visit("--precision", c.precision, "fp32, bf16 or fp16");
  visit("--numerics-report", c.numerics_report, "Exponents of weights, activations and gradients: numerics.txt, .json");
  visit("--checkpoint-activations", c.checkpoint_activations, "Less memory, about a third more time");
  visit("--seed", c.seed, "Seed of the order, the new adapter and dropout");
  visit("--no-shuffle", c.no_shuffle, "Keep the order of the data");
  visit("--train-on-prompt", c.train_on_prompt, "Train on every token, not only on answers");
  visit("--raw", c.raw, "Completions and alpaca without the chat template");
  visit("--ignore-fields", c.ignore_fields, "Fields of records and messages to pass over, such as tools,reward");
  visit("--skip-bad", c.skip_bad, "Skip and count bad lines");
  visit("--eval-every", c.eval_every, "Steps between validations (0: each epoch)");
  visit("--patience", c.patience, "Stop after so many validations without a better one (0: never)");
  visit("--save-every", c.save_every, "Steps between checkpoints");
  visit("--keep", c.keep, "Checkpoints kept, at least 2");
  visit("--resume", c.resume, "auto goes on from the newest whole checkpoint; never", Choices{"auto", "never"});
  visit("--dist-timeout", c.dist_timeout,
        "Under mpirun: seconds that a rank is waited for (0: 10 x the slowest step, >= 60)");
  visit("-y,--yes", c.yes, "Train even if the stop token is not trained");
}

// "output" of "-o,--output".
inline std::string FieldName(const std::string& flags) { return flags.substr(flags.rfind("--") + 2); }

}  // namespace cambium
