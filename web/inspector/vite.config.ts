import preact from '@preact/preset-vite'
import { defineConfig } from 'vite'

// The built files keep their names, so that what is checked in changes in place; the
// agent has them asked for anew each time.
export default defineConfig({
  base: './',
  plugins: [preact()],
  build: {
    target: 'es2022',
    modulePreload: { polyfill: false },
    assetsInlineLimit: 0,
    rollupOptions: {
      output: { entryFileNames: 'app.js', chunkFileNames: '[name].js', assetFileNames: '[name][extname]' },
    },
  },
  // For work on the page beside an agent: npx vite, then open its address.
  server: {
    proxy: { '/api': { target: 'http://127.0.0.1:4040', headers: { origin: 'http://127.0.0.1:4040' } } },
  },
})
