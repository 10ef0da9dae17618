import { defineConfig } from "vite";

export default defineConfig({
  base: "/ui/",
  build: {
    outDir: "../app/ui/static",
    emptyOutDir: true,
    target: "es2022",
    // Nothing inline: the Content-Security-Policy would refuse it.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 900,
  },
  server: { proxy: { "/v1": "http://127.0.0.1:8000" } },
});
