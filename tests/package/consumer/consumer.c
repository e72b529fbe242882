/* consumer IMAGE: the most likely class of an image, with the shipped model. */
#include <stdio.h>
#include <stdlib.h>
#include <vmamba.h>

static int fail(const char* what, char* error) {
  fprintf(stderr, "%s: %s\n", what, error != NULL ? error : "no text");
  vmamba_free(error);
  return 1;
}

int main(int argc, char** argv) {
  static char bytes[1 << 20];
  vmamba_options options = {0};
  vmamba_model* model = NULL;
  char* error = NULL;
  FILE* file = argc == 2 ? fopen(argv[1], "rb") : NULL;
  vmamba_encoded image = {bytes, 0, NULL};
  float* logits;
  int best = 0, i;

  if (file == NULL) return fail("consumer", NULL);
  image.size = fread(bytes, 1, sizeof bytes, file);
  fclose(file);
  options.size = sizeof options;
  options.device = "cpu";
  if (vmamba_open(&options, &model, &error) != VMAMBA_OK) return fail("open", error);
  logits = calloc((size_t)vmamba_class_count(model), sizeof *logits);
  if (logits == NULL) return fail("calloc", NULL);
  if (vmamba_classify_encoded(model, &image, 1, logits, NULL, &error) != VMAMBA_OK)
    return fail(argv[1], error);
  for (i = 1; i < vmamba_class_count(model); ++i)
    if (logits[i] > logits[best]) best = i;
  printf("%s %s\n", vmamba_version(), vmamba_class_name(model, best));
  free(logits);
  vmamba_close(model);
  return 0;
}
