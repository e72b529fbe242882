/* libvmamba: VMamba image classifiers from C and C++ (docs/library.md).
 *
 * Functions that can fail return a vmamba_status. Where `error` is not NULL, *error becomes NULL or, on failure, one line
 * with the problem, its place and the fix, which vmamba_free() releases. On failure outputs are left as they were.
 *
 * Threads: every function may be called from any thread. Calls on one model wait for each other; different models run at
 * the same time. A model must not be in use when it is closed. The library keeps no state outside of its models, writes
 * to neither stdout nor stderr, and installs no signal handlers.
 *
 * Until version 1.0 a release with another minor number may change this interface; then the SONAME changes too. */
#ifndef VMAMBA_H
#define VMAMBA_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define VMAMBA_API __attribute__((visibility("default")))

/* The exit codes of vmamba-cli, with memory told apart. */
typedef enum vmamba_status {
  VMAMBA_OK = 0,
  VMAMBA_INPUT_ERROR = 2,   /* wrong arguments, config, weights or images */
  VMAMBA_MACHINE_ERROR = 3, /* the device or the machine failed */
  VMAMBA_OUT_OF_MEMORY = 4  /* the model remains usable, with smaller batches */
} vmamba_status;

typedef enum vmamba_log_level { VMAMBA_LOG_INFO = 0, VMAMBA_LOG_WARNING = 1 } vmamba_log_level;

/* Texts are UTF-8; NULL and zero are defaults. */
typedef struct vmamba_options {
  size_t size; /* sizeof(vmamba_options) */
  const char*
      weights; /* .safetensors, its .index.json, .pth, .pt or .ckpt; NULL without config: the shipped model */
  const char*
      config;      /* a file or a published model's name; NULL: beside the weights, else inferred from them */
  const char* key; /* dotted path of the state dict in a checkpoint */
  const char* prefix;                 /* of the tensors that are read; it is removed from their names */
  const char* labels;                 /* class names; NULL: beside the weights, if there are any */
  const char* device;                 /* auto, cpu, cuda or cuda:N */
  const char* dtype;                  /* auto or a dtype of vmamba-cli --dtype */
  const char* selective_scan_backend; /* overrides the config's */
  const char* forward_core_version;   /* overrides the config's */
  int threads;                        /* on the CPU; 0: all that the process may use */
  /* Receives what was assumed (a config inferred from tensors) and warnings, also from threads of the library. */
  void (*log)(void* user, vmamba_log_level level, const char* text);
  void* log_user;
} vmamba_options;

typedef struct vmamba_model vmamba_model;

/* MAJOR.MINOR.PATCH */
VMAMBA_API const char* vmamba_version(void);
VMAMBA_API void vmamba_free(char* text);

/* Reads the weights and prepares them on the device. Until it returns their file must not be truncated (it is mapped). */
VMAMBA_API vmamba_status vmamba_open(const vmamba_options* options, vmamba_model** model, char** error);
VMAMBA_API void vmamba_close(vmamba_model* model);

/* A JSON object: model, config, weights, num_classes, in_chans, image_size, device, device_name, dtype,
 * selective_scan_backend, forward_core. Later versions may add keys. */
VMAMBA_API const char* vmamba_describe(const vmamba_model* model);
VMAMBA_API int vmamba_class_count(const vmamba_model* model);
/* NULL if the model has no labels or no such class. */
VMAMBA_API const char* vmamba_class_name(const vmamba_model* model, int class_index);

/* Receives intermediate values ("taps"; names: docs/verification.md). Neither function may call the library with the same
 * model, throw, or leave by longjmp. */
typedef struct vmamba_taps {
  void* user;
  int (*wants)(void* user, const char* name); /* whether `at` is to receive it; NULL: all */
  /* values: float32, dense, of `rank` dims (channels last), valid during the call. The features before the classifier are
   * "classifier.pool". */
  void (*at)(void* user, const char* name, const float* values, const int64_t* dims, size_t rank);
} vmamba_taps;

/* The file of an image: JPEG, PNG, WebP, GIF, BMP, TIFF, PNM or TGA. */
typedef struct vmamba_encoded {
  const void* bytes;
  size_t size;
  const char* name; /* for errors; NULL: its number in the batch */
} vmamba_encoded;

typedef struct vmamba_rgb {
  const uint8_t* pixels; /* height rows of width RGB triples */
  int width, height;
  size_t stride; /* bytes from row to row; 0: 3 * width */
} vmamba_rgb;

/* Each runs one batch and writes count * vmamba_class_count() logits, an image after the other. taps may be NULL. Images
 * are resized and cropped to the same pixels as by Pillow and torchvision; one that cannot be decoded fails the batch, and
 * the error names it. Memory for a batch is kept for the next one of the same size. */
VMAMBA_API vmamba_status vmamba_classify_encoded(vmamba_model* model, const vmamba_encoded* images,
                                                 size_t count, float* logits, const vmamba_taps* taps,
                                                 char** error);
VMAMBA_API vmamba_status vmamba_classify_rgb(vmamba_model* model, const vmamba_rgb* images, size_t count,
                                             float* logits, const vmamba_taps* taps, char** error);
/* values: (count, in_chans, height, width), dense and already normalised. */
VMAMBA_API vmamba_status vmamba_classify_tensor(vmamba_model* model, const float* values, size_t count,
                                                int height, int width, float* logits, const vmamba_taps* taps,
                                                char** error);

#ifdef __cplusplus
}
#endif

#endif
